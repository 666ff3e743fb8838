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
    -smp cpus=4,sockets=1,cores=4,threads=1 \
    -rtc base=localtime,driftfix=slew \
    -global PIIX4_PM.disable_s3=1 \
    -global PIIX4_PM.disable_s4=1 \
    -device qemu-xhci,id=usb,bus=pci.0,addr=0xb.0x0 \
    -device ich9-ahci,id=sata0,bus=pci.0,addr=0x9.0x0 \
    -device virtio-serial-pci,id=virtio-serial0,bus=pci.0,addr=0x6.0x0 \
    -drive if=none,id=drive0,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sda \
    -device ide-hd,drive=drive0,bus=sata0.0 \
    -drive if=none,id=drive1,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sdb \
    -device ide-hd,drive=drive1,bus=sata0.1 \
    -drive if=none,id=drive2,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sdc \
    -device ide-hd,drive=drive2,bus=sata0.2,bootindex=1 \
    -device ide-cd,bus=ide.1,unit=0 \
    -netdev user,id=net0 \
    -device virtio-net-pci,netdev=net0,mac=00:0c:29:00:00:00,bus=pci.0,addr=0x3.0x0 \
    -netdev user,id=net1 \
    -device virtio-net-pci,netdev=net1,mac=00:0c:29:00:00:01,bus=pci.0,addr=0x4.0x0 \
    -netdev user,id=net2 \
    -device virtio-net-pci,netdev=net2,mac=00:0c:29:00:00:02,bus=pci.0,addr=0x5.0x0 \
    -chardev file,id=com1,append=on,path=final-com1.log \
    -device isa-serial,chardev=com1 \
    -chardev socket,id=agent,server=on,wait=off,path=agent.sock \
    -device virtserialport,bus=virtio-serial0.0,nr=1,chardev=agent,name=org.qemu.guest_agent.0 \
    -device usb-tablet,bus=usb.0 \
    -device VGA,vgamem_mb=16,bus=pci.0,addr=0x2.0x0 \
    -device intel-hda,id=sound0,bus=pci.0,addr=0x8.0x0 \
    -device hda-duplex,bus=sound0.0 \
    -device virtio-balloon-pci,bus=pci.0,addr=0x7.0x0 \
    -object rng-random,id=rng0,filename=/dev/urandom \
    -device virtio-rng-pci,rng=rng0,bus=pci.0,addr=0xa.0x0 \
    -device pvpanic,ioport=0x505 \
    "$@"
