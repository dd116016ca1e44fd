/* lab.h: the lab: runs a command where there is a KVM that nests, on any machine.
 *
 * Where the machine has none, Debian's kernel is booted under QEMU's emulator (TCG emulates AMD
 * SVM with nested paging) and the command runs there, seeing the machine's files:
 * read-only, but for the build tree, and with a fresh /tmp and /run.  `make lab-kernel` puts the
 * kernel into build/lab, found beside the program or named by $VMBEAM_LAB_DIR; the folder above it
 * is the build tree.
 */
#ifndef NESTED_LAB_H
#define NESTED_LAB_H

/* `vmbeam lab --where` says "native", or "emulated" where the command would run in such a machine.
 * `vmbeam lab [--memory 6G] [--cpus 2] [--machines 2] [--timeout S] [--emulate] [-- COMMAND...]`; argv[0]
 * is "lab".  With --machines 2 two such machines are booted, always emulated, joined by a cable: COMMAND runs on
 * both, where $VMBEAM_LAB_MACHINE is 1 or 2 and the address on `cable` 10.9.0.1 or 10.9.0.2, with the memory and CPUs
 * each.  Input, status and the lab's end are those of machine 1's; both write to our output.  The build tree is shared
 * storage.  A machine 2 whose COMMAND has ended is off.
 * Returns the exit status: COMMAND's own, 128+N if signal N ended it; 1 the lab cannot
 * start, 2 usage, 124 --timeout expired, 125 the emulator or the lab's kernel failed before COMMAND
 * ended, 128+N if signal N ended vmbeam lab itself.  May not return: natively it executes COMMAND.
 */
int lab_main(int argc, char **argv);

#endif
