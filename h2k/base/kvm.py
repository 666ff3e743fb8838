"""Whether KVM runs what a guest's kernel is made of: a few bytes of our own, as the firmware of an empty machine."""

from __future__ import annotations

import os
import select
import subprocess
import time

from h2k.base.children import dies_with_us, temporary_directory

LIMIT = 10  # seconds; with KVM that works the answer comes within half a second
_PORT, _SIGN = 0x402, b"k"
_SIZE, _START = 0x10000, 0xFE00  # of the firmware; it ends at 4 GiB, and the processor starts 16 bytes before that
# From reset to 32 bits, page tables for 4 GiB at 0x1000, long mode; then 20 million rounds of an addition, two SSE
# instructions and a store, and the sign on the debug port. The same in assembler, for x86's AT&T syntax:
#   cli; cs lgdtl; cr0|=1; ljmpl $8                                                                  (16 bits)
#   ds=es=ss=16; clear 0x1000..0x6fff; PML4, PDPT, 2048 pages of 2 MiB; cr4|=PAE|OSFXSR; cr3=0x1000; EFER|=LME;
#   cr0=(cr0&~EM)|PG|MP; ljmpl $24                                                                   (32 bits)
#   mov $20000000,%ecx; 1: add %rcx,%rax; movq %rax,%xmm0; paddq %xmm0,%xmm1; movq %xmm1,0x8000; dec %rcx; jnz 1b;
#   mov $0x402,%edx; mov $'k',%al; out %al,%dx; 2: hlt; jmp 2b                                       (64 bits)
#   GDT: null, 32-bit code, data, 64-bit code, and its register's value
_CODE = bytes.fromhex(
    "fa2e660f011600ff0f20c00c010f22c066ea18feffff0800b8100000008ed88ec08ed0fcbf0010000031c0b900180000f3abc70500100000"
    "03200000c7050020000003300000c7050820000003400000c7051020000003500000c7051820000003600000bf00300000b8830000008907"
    "83c708050000200081ff0070000075ee0f20e00d200200000f22e0b8001000000f22d8b9800000c00f320d000100000f300f20c083e0fb0d"
    "020000800f22c0eab6feffff1800b9002d31014801c866480f6ec0660fd4c8660fd60c250080000048ffc975e6ba02040000b06beef4ebfd"
    "0000000000000000ffff0000009bcf00ffff00000093cf00ffff0000009baf001f00e0feffff"
)


def firmware() -> bytes:
    """The 64 KiB that QEMU takes as -bios."""
    image = bytearray(b"\xf4" * _SIZE)  # hlt
    image[_START : _START + len(_CODE)] = _CODE
    image[0xFFF0:0xFFF3] = b"\xe9" + ((_START - 0xFFF3) & 0xFFFF).to_bytes(2, "little")  # jmp
    return bytes(image)


def probe(qemu: str, accelerator: str = "kvm") -> bool:
    """Whether QEMU's processor comes to the end of that, in 64-bit code and at the speed of one.

    A device that opens, and a machine whose firmware prints, prove nothing: hosts whose KVM emulates instructions run
    SeaBIOS and stop in a kernel ("KVM internal error", or minutes for what takes a second).
    """
    with temporary_directory("h2k-kvm-") as place:
        image = place / "firmware"
        image.write_bytes(firmware())
        # The processor model that libguestfs asks for: QEMU aborts on it where KVM is only half there.
        argv = [qemu, "-accel", accelerator, "-cpu", "max", "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none"]
        argv += ["-no-reboot", "-bios", str(image), "-chardev", "stdio,id=log"]
        argv += ["-device", f"isa-debugcon,iobase={_PORT:#x},chardev=log"]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=dies_with_us()
        ) as child:
            try:
                return _signs(child)
            finally:
                child.kill()


def _signs(child: subprocess.Popen[bytes]) -> bool:
    assert child.stdout is not None and child.stderr is not None
    streams = [child.stdout.fileno(), child.stderr.fileno()]
    said, end = b"", time.monotonic() + LIMIT
    while streams and b"KVM internal error" not in said:
        ready, _, _ = select.select(streams, [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return False
        for stream in ready:
            data = os.read(stream, 4096)
            if stream == child.stdout.fileno() and _SIGN in data:
                return True
            said = said[-100:] + data
            if not data:
                streams.remove(stream)
    return False
