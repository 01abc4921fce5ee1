/* SPDX-License-Identifier: MIT */
/* In a guest: writes a byte to an I/O port.  port_write PORT VALUE */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>

int main(int argc, char **argv)
{
    unsigned long port;

    if (argc != 3) {
        fprintf(stderr, "usage: port_write PORT VALUE\n");
        return 64;
    }
    port = strtoul(argv[1], NULL, 0);
    if (ioperm(port, 1, 1) < 0) {
        perror("ioperm");
        return 1;
    }
    outb((unsigned char)strtoul(argv[2], NULL, 0), (unsigned short)port);
    return 0;
}
