# The whole operating system of the migrated guest: one boot sector.
#
# It stays in real mode and lets the BIOS do the devices (int 14h console,
# int 13h disk), so it runs on whatever bus libvirt gives it.  Only RAM beyond
# 1 MiB needs more: one segment register gets a 4 GiB limit ("unreal mode").
#
# RAM from 1 MiB to MEMORY_MIB - 1 MiB is a ring of pages.  A writer goes round
# it for ever; each lap leaves a new generation of the pattern behind.  So the
# content of every page follows from two numbers, `lap` and `cursor`, and a
# checker that goes round as well notices a flipped bit and also a page that
# arrived in an *old* version, which is what a lost update would look like.
#
# HZ times a second:  write WRITE_PAGES pages, check CHECK_PAGES pages, write
# one disk sector (if DISK_SECTORS is not 0), then say so on the console:
#
#     ready                          once, all memory is filled
#     tick 0000002a                  that round is done, sector included
#     sweep 00000003 bad 00000000    all pages checked, 32-bit words found wrong so far
#
# Build: as --32 --defsym MEMORY_MIB=N --defsym DISK_SECTORS=N (a power of two)
#        ld -m elf_i386 --oformat binary -Ttext 0x7c00

	.set	HZ, 50
	.set	WRITE_PAGES, 4		# 0.8 MiB/s: dirty, yet pre-copy converges
	.set	CHECK_PAGES, 512	# 2 MiB: a sweep of 128 MiB takes a second
	.set	STRIDE, 40503		# odd: tick * STRIDE visits every sector once

	.set	PAGE, 4096
	.set	RING_START, 1 << 20
	.set	RING_END, (MEMORY_MIB - 1) << 20	# the BIOS keeps tables at the top

	.set	SECTOR, 0x1000		# buffer for one sector
	.set	tick, 0x0600		# variables, below the boot sector
	.set	lap, 0x0604
	.set	cursor, 0x0608		# next page to write; below it: lap, from it on: lap - 1
	.set	patrol, 0x060c		# next page to check
	.set	sweep, 0x0610
	.set	bad, 0x0614
	.set	VARIABLES, 6

	# The pattern: a linear congruential sequence that starts from %eax.
	.macro	next_word
	imull	$1664525, %eax
	addl	$1013904223, %eax
	.endm

	.code16
	.globl	_start
_start:
	ljmp	$0, $1f
1:	cli
	cld
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp

	movw	$tick, %di
	movw	$VARIABLES * 2, %cx
	rep	stosw
	movl	$RING_START, %eax
	movl	%eax, cursor
	movl	%eax, patrol

	movw	$0x2401, %ax		# A20 on
	int	$0x15
	movw	$0x00e3, %ax		# first serial port, 8n1
	xorw	%dx, %dx
	int	$0x14
	movb	$0x36, %al		# timer: square wave, HZ
	outb	%al, $0x43
	movb	$(1193182 / HZ) & 0xff, %al
	outb	%al, $0x40
	movb	$(1193182 / HZ) >> 8, %al
	outb	%al, $0x40

	call	flatten_es
1:	call	write_page		# the first lap fills the memory
	cmpl	$0, lap
	je	1b
	movw	$text_ready, %si
	call	put_text

round:
	sti
	hlt				# until the timer, whose handler is the BIOS's
	cli				# nothing may disturb %es from here on
	call	flatten_es
	incl	tick

	movw	$WRITE_PAGES, %bp
1:	call	write_page
	decw	%bp
	jnz	1b

	movw	$CHECK_PAGES, %bp
1:	call	check_page
	decw	%bp
	jnz	1b

	.if	DISK_SECTORS
	movl	tick, %eax		# a sector begins with its tick
	movl	$SECTOR, %edi
	movw	$128, %cx
	call	fill
	imull	$STRIDE, tick, %eax
	andl	$DISK_SECTORS - 1, %eax
	movl	%eax, disk_lba
	movw	$disk_packet, %si
	movw	$0x4300, %ax		# extended write, second disk
	movb	$0x81, %dl
	int	$0x13
	movw	$text_disk_error, %si
	jnc	1f
	call	put_text
1:
	.endif

	movl	tick, %ebx
	movw	$text_tick, %si
	call	put_number
	movw	$text_newline, %si
	call	put_text
	jmp	round

# Gives %es base 0 and a 4 GiB limit.  Once more each round, because a BIOS call
# that visits protected mode brings the 64 KiB limit back.
flatten_es:
	lgdt	gdt_pointer
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	movw	$8, %bx
	movw	%bx, %es
	andb	$0xfe, %al
	movl	%eax, %cr0
	xorw	%bx, %bx
	movw	%bx, %es
	ret

write_page:
	movl	lap, %eax
	movl	cursor, %edi
	addl	%edi, %eax		# seed: address + generation
	movw	$PAGE / 4, %cx
	call	fill
	cmpl	$RING_END, %edi
	jb	1f
	movl	$RING_START, %edi
	incl	lap
1:	movl	%edi, cursor
	ret

fill:	stosl	%eax, %es:(%edi)
	next_word
	loop	fill
	ret

check_page:
	movl	lap, %eax
	movl	patrol, %edi
	cmpl	cursor, %edi
	cmc
	sbbl	$0, %eax		# not yet reached by the writer: one lap older
	addl	%edi, %eax
	movw	$PAGE / 4, %cx
1:	scasl	%es:(%edi), %eax
	je	2f
	incl	bad
2:	next_word
	loop	1b
	cmpl	$RING_END, %edi
	jb	3f
	incl	sweep
	movl	sweep, %ebx
	movw	$text_sweep, %si
	call	put_number
	movl	bad, %ebx
	movw	$text_bad, %si
	call	put_number
	movw	$text_newline, %si
	call	put_text
	movl	$RING_START, %edi
3:	movl	%edi, patrol
	ret

# The text at %si, then %ebx as eight hexadecimal digits.
put_number:
	call	put_text
	movw	$8, %cx
1:	roll	$4, %ebx
	movb	%bl, %al
	andb	$15, %al
	addb	$'0', %al
	cmpb	$'9', %al
	jbe	2f
	addb	$'a' - '0' - 10, %al
2:	call	put_char
	loop	1b
	ret

put_text:
	lodsb
	testb	%al, %al
	jz	1f
	call	put_char
	jmp	put_text
1:	ret

put_char:
	movb	$1, %ah
	xorw	%dx, %dx
	int	$0x14
	ret

text_ready:	.asciz	"ready\n"
text_tick:	.asciz	"tick "
text_sweep:	.asciz	"sweep "
text_bad:	.asciz	" bad "
text_newline:	.asciz	"\n"
text_disk_error: .asciz	"disk error\n"

disk_packet:	.byte	16, 0
		.word	1, SECTOR, 0	# one sector, from here
disk_lba:	.long	0, 0

gdt:		.quad	0		# entry 1: data, base 0, limit 4 GiB
		.quad	0x00cf92000000ffff
gdt_pointer:	.word	15
		.long	gdt

	.org	_start + 510
	.word	0xaa55
