/* multiboot.S: a multiboot1 kernel in a few instructions: checks what the specification promises it
 * (magic, flags, one module whose first byte is 'M'), that page 0 is RAM, says so on the serial
 * port, and leaves by isa-debug-exit with 0x10, or with the number of the check that failed.
 */
	.set MAGIC, 0x1badb002
	.set FLAGS, 0x3

	.section .multiboot, "a"
	.align 4
	.long MAGIC, FLAGS, -(MAGIC + FLAGS)

	.text
	.code32
	.globl _start
_start:
	movl $1, %esi
	cmpl $0x2badb002, %eax
	jne leave
	movl $2, %esi
	movl (%ebx), %eax
	andl $0x4d, %eax		/* memory, command line, modules, map */
	cmpl $0x4d, %eax
	jne leave
	movl $3, %esi
	cmpl $1, 20(%ebx)		/* mods_count */
	jne leave
	movl 24(%ebx), %edi		/* mods_addr */
	movl (%edi), %edx
	movl $4, %esi
	cmpb $'M', (%edx)
	jne leave
	movl $5, %esi
	movl $0x12345678, 0
	cmpl $0x12345678, 0
	jne leave
	movl $text, %ecx
1:	movw $0x3fd, %dx		/* the line status says when there is room */
	inb %dx, %al
	testb $0x20, %al
	jz 1b
	movb (%ecx), %al
	movw $0x3f8, %dx
	outb %al, %dx
	incl %ecx
	cmpb $0, (%ecx)
	jne 1b
	movl $0x10, %esi
leave:
	movl %esi, %eax
	movw $0xf4, %dx
	outl %eax, %dx
	movb $0xfe, %al			/* not reached with --debug-exit */
	outb %al, $0x64
2:	hlt
	jmp 2b

	.section .rodata
text:	.asciz "multiboot ok\n"
