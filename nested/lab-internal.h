/* lab-internal.h: what the two ends of the lab share: lab.c on the machine, lab-agent.c inside.
 *
 * They talk over four virtio-serial ports, each its own byte stream with its own flow control:
 * the command's stdin, stdout and stderr, raw, and a control port with the messages below.
 *
 *	machine                               agent
 *	   <---------- HELLO ------------------  all ports are open
 *	   ----------- CWD, ENV*, ARG*, RUN -->  the command starts
 *	   ----------- SIZE ----------------->   the terminal's size changed (any time)
 *	   <---------- EXIT -------------------  the command has ended, all its output is sent
 *
 * EXIT may overtake the output, so it says how many bytes there were.
 */
#ifndef NESTED_LAB_INTERNAL_H
#define NESTED_LAB_INTERNAL_H

#include "vmm/base.h"

#include <poll.h>

enum lab_port { LAB_IN, LAB_OUT, LAB_ERR, LAB_CTL, LAB_PORTS }; /* port number - 1 */

enum lab_msg_type {
	LAB_HELLO, /* to the machine, empty */
	LAB_CWD,   /* the folder to run in */
	LAB_ENV,   /* one NAME=VALUE */
	LAB_ARG,   /* one argument, the program first */
	LAB_RUN,   /* struct lab_run */
	LAB_SIZE,  /* struct lab_run; tty is not looked at */
	LAB_EXIT,  /* to the machine: struct lab_exit */
	LAB_MSG_TYPES,
};

struct lab_msg {
	uint32_t type;
	uint32_t len; /* of the payload that follows; strings without their end */
};
#define LAB_MSG_MAX (1u << 20)

struct lab_run {
	uint16_t tty; /* a terminal, or three pipes */
	uint16_t rows, cols;
	uint16_t pad;
	uint64_t time_ns; /* CLOCK_REALTIME */
};

struct lab_exit {
	uint32_t status; /* 0 to 255, 128+N for signal N */
	uint32_t pad;
	uint64_t out, err; /* bytes written to the two ports */
};

#define LAB_QEMU "qemu-system-x86_64"

/* Where QEMU is, the caller's to free; NULL if $PATH does not lead to it. */
char *lab_qemu_find(void);
/* A descriptor to execute instead, of a copy without known faults (lab-qemu.c); -1 if that cannot be
 * made of this QEMU, which must do as it is then. */
int lab_qemu_mended(const char *path);

/* Messages in and out of a non-blocking descriptor. */
struct lab_wire {
	int fd;
	char *in, *out;
	size_t in_len, out_len;
};

void lab_wire_put(struct lab_wire *w, enum lab_msg_type type, const void *data, size_t len);
/* Writes what fits; -1 if the other end is gone. */
int lab_wire_flush(struct lab_wire *w);
/* Reads what is there; -1 at the end or on an error. */
int lab_wire_fill(struct lab_wire *w);
/* Calls handle() for every whole message read; -1 if one is malformed or handle() says so. */
int lab_wire_take(struct lab_wire *w,
		  int (*handle)(void *arg, uint32_t type, const char *data, size_t len), void *arg);

/* One direction of a byte stream: from, buf, to.  It owns both descriptors; -1 is a closed one.
 * They are non-blocking, or `chunk` is so small that a write after POLLOUT never waits.
 */
struct lab_pump {
	int from, to;
	bool half_close;   /* `to` is a socket to QEMU: see lab_pump_close() */
	size_t chunk;      /* most bytes to write at once */
	size_t head, tail; /* buf[head, tail) is still to be written */
	uint64_t total;    /* bytes written */
	char buf[32 * 1024];
};

/* Fills in the two entries that poll() needs. */
void lab_pump_poll(const struct lab_pump *p, struct pollfd fds[2]);
/* Moves what poll() said can move.  At the end of `from` both are closed once all is written, and
 * as soon as nobody reads `to`: whoever writes into `from` then learns it. */
void lab_pump_step(struct lab_pump *p, const struct pollfd fds[2]);
void lab_pump_close(struct lab_pump *p);

/* The first process in the lab.  Does not return: the lab ends by its machine's hand. */
int lab_agent_main(void);

#endif
