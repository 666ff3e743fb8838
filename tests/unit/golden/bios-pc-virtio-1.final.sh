#!/bin/sh -
# The final phase of guest, in QEMU.
set -e
cd "$(dirname "$0")"

exec qemu-system-x86_64 \
    -no-user-config \
    -nodefaults \
    -name guest=guest \
    -uuid 5f2a1f6e-2a51-4f4e-9d5b-0c6f6a0f3b11 \
    -machine pc,vmport=off,hpet=off,smm=off \
    -accel kvm \
    -cpu host,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-stimer,hv-frequencies,hv-tlbflush,hv-ipi,hv-time \
    -m 4096 \
    -smp cpus=4,sockets=2,cores=2,threads=1 \
    -object iothread,id=iothread1 \
    -rtc base=localtime,driftfix=slew \
    -global PIIX4_PM.disable_s3=1 \
    -global PIIX4_PM.disable_s4=1 \
    -device piix3-usb-uhci,id=usb,bus=pci.0,addr=0x1.0x2 \
    -device virtio-serial-pci,id=virtio-serial0,bus=pci.0,addr=0x5.0x0 \
    -drive if=none,id=drive0,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sda \
    -device virtio-blk-pci,drive=drive0,iothread=iothread1,bus=pci.0,addr=0x4.0x0,bootindex=1 \
    -netdev user,id=net0 \
    -device virtio-net-pci,netdev=net0,mac=00:0c:29:00:00:00,bus=pci.0,addr=0x3.0x0 \
    -chardev file,id=com1,append=on,path=final-com1.log \
    -device isa-serial,chardev=com1 \
    -chardev socket,id=agent,server=on,wait=off,path=agent.sock \
    -device virtserialport,bus=virtio-serial0.0,nr=1,chardev=agent,name=org.qemu.guest_agent.0 \
    -device usb-tablet,bus=usb.0 \
    -device VGA,vgamem_mb=16,bus=pci.0,addr=0x2.0x0 \
    -device virtio-balloon-pci,bus=pci.0,addr=0x6.0x0 \
    "$@"
