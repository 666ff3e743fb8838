#!/bin/sh -
# The bootstrap phase of guest, in QEMU.
set -e
cd "$(dirname "$0")"
# The firmware variables, one file for both phases.
[ -e nvram.fd ] || cp /usr/share/OVMF/OVMF_VARS_4M.ms.fd nvram.fd
# The guest had a TPM: start swtpm, and add -chardev, -tpmdev and -device tpm-crb as its manual says.

exec qemu-system-x86_64 \
    -no-user-config \
    -nodefaults \
    -name guest=guest \
    -uuid 5f2a1f6e-2a51-4f4e-9d5b-0c6f6a0f3b11 \
    -machine q35,vmport=off,hpet=off,smm=on \
    -accel kvm \
    -cpu host,hv-relaxed \
    -m 4096 \
    -smp cpus=4,sockets=2,cores=2,threads=1 \
    -global driver=cfi.pflash01,property=secure,value=on \
    -drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.ms.fd \
    -drive if=pflash,unit=1,format=raw,file=nvram.fd \
    -object iothread,id=iothread1 \
    -rtc base=utc,driftfix=slew \
    -global ICH9-LPC.disable_s3=1 \
    -global ICH9-LPC.disable_s4=1 \
    -device pcie-root-port,id=pci.1,chassis=1,port=0x10,bus=pcie.0,multifunction=on,addr=0x2.0x0 \
    -device pcie-root-port,id=pci.2,chassis=2,port=0x11,bus=pcie.0,addr=0x2.0x1 \
    -device pcie-root-port,id=pci.3,chassis=3,port=0x12,bus=pcie.0,addr=0x2.0x2 \
    -device pcie-root-port,id=pci.4,chassis=4,port=0x13,bus=pcie.0,addr=0x2.0x3 \
    -device pcie-root-port,id=pci.5,chassis=5,port=0x14,bus=pcie.0,addr=0x2.0x4 \
    -device pcie-root-port,id=pci.6,chassis=6,port=0x15,bus=pcie.0,addr=0x2.0x5 \
    -device pcie-root-port,id=pci.7,chassis=7,port=0x16,bus=pcie.0,addr=0x2.0x6 \
    -device pcie-root-port,id=pci.8,chassis=8,port=0x17,bus=pcie.0,addr=0x2.0x7 \
    -device pcie-root-port,id=pci.9,chassis=9,port=0x18,bus=pcie.0,multifunction=on,addr=0x3.0x0 \
    -device qemu-xhci,id=usb,bus=pcie.0,addr=0x1d.0x0 \
    -drive if=none,id=drive0,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sda \
    -device ide-hd,drive=drive0,bus=ide.0,bootindex=1 \
    -drive if=none,id=drive1,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest.h2k/scratch.qcow2 \
    -device virtio-blk-pci,drive=drive1,iothread=iothread1,bus=pci.2,addr=0x0.0x0 \
    -drive if=none,id=drive2,format=raw,readonly=on,media=cdrom,file=/usr/share/virtio-win/virtio-win.iso \
    -device ide-cd,drive=drive2,bus=ide.5 \
    -netdev user,id=net0,restrict=on \
    -device virtio-net-pci,netdev=net0,mac=00:0c:29:00:00:00,bus=pci.1,addr=0x0.0x0 \
    -chardev file,id=com1,append=on,path=bootstrap-com1.log \
    -device isa-serial,chardev=com1 \
    -device usb-tablet,bus=usb.0 \
    -device VGA,vgamem_mb=16,bus=pcie.0,addr=0x1.0x0 \
    "$@"
