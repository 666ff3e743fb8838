"""Made guests: Windows disks built from text with hivex and libguestfs. No Microsoft file is in them."""
