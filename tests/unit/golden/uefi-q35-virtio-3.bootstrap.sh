#!/bin/sh -
# The bootstrap phase of guest, in QEMU.
set -e
cd "$(dirname "$0")"
# The firmware variables, one file for both phases.
[ -e nvram.fd ] || cp /usr/share/OVMF/OVMF_VARS_4M.fd nvram.fd

exec qemu-system-x86_64 \
    -no-user-config \
    -nodefaults \
    -name guest=guest \
    -uuid 5f2a1f6e-2a51-4f4e-9d5b-0c6f6a0f3b11 \
    -machine q35,vmport=off,hpet=off,smm=off \
    -accel kvm \
    -cpu host,hv-relaxed \
    -m 4096 \
    -smp cpus=4,sockets=1,cores=4,threads=1 \
    -drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
    -drive if=pflash,unit=1,format=raw,file=nvram.fd \
    -object iothread,id=iothread1 \
    -rtc base=localtime,driftfix=slew \
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
    -device pcie-root-port,id=pci.10,chassis=10,port=0x19,bus=pcie.0,addr=0x3.0x1 \
    -device pcie-root-port,id=pci.11,chassis=11,port=0x1a,bus=pcie.0,addr=0x3.0x2 \
    -device pcie-root-port,id=pci.12,chassis=12,port=0x1b,bus=pcie.0,addr=0x3.0x3 \
    -device pcie-root-port,id=pci.13,chassis=13,port=0x1c,bus=pcie.0,addr=0x3.0x4 \
    -device qemu-xhci,id=usb,bus=pcie.0,addr=0x1d.0x0 \
    -drive if=none,id=drive0,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sda \
    -device ide-hd,drive=drive0,bus=ide.0 \
    -drive if=none,id=drive1,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sdb \
    -device ide-hd,drive=drive1,bus=ide.1 \
    -drive if=none,id=drive2,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sdc \
    -device ide-hd,drive=drive2,bus=ide.2,bootindex=1 \
    -drive if=none,id=drive3,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest.h2k/scratch.qcow2 \
    -device virtio-blk-pci,drive=drive3,iothread=iothread1,bus=pci.4,addr=0x0.0x0 \
    -drive if=none,id=drive4,format=raw,readonly=on,media=cdrom,file=/usr/share/virtio-win/virtio-win.iso \
    -device ide-cd,drive=drive4,bus=ide.5 \
    -netdev user,id=net0,restrict=on \
    -device e1000e,netdev=net0,mac=00:0c:29:00:00:00,bus=pci.1,addr=0x0.0x0 \
    -netdev user,id=net1,restrict=on \
    -device e1000e,netdev=net1,mac=00:0c:29:00:00:01,bus=pci.2,addr=0x0.0x0 \
    -netdev user,id=net2,restrict=on \
    -device e1000e,netdev=net2,mac=00:0c:29:00:00:02,bus=pci.3,addr=0x0.0x0 \
    -chardev file,id=com1,append=on,path=bootstrap-com1.log \
    -device isa-serial,chardev=com1 \
    -device usb-tablet,bus=usb.0 \
    -device VGA,vgamem_mb=16,bus=pcie.0,addr=0x1.0x0 \
    -device ich9-intel-hda,id=sound0,bus=pcie.0,addr=0x1b.0x0 \
    -device hda-duplex,bus=sound0.0 \
    -device pvpanic,ioport=0x505 \
    "$@"
