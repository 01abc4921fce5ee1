/* SPDX-License-Identifier: MIT */
/* shutdown_fs FOLDER: what the loss of power does to a file system: nothing that was not
 * on its disk gets there any more, the journal included. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

/* Of ext4 and XFS; in no header that is installed. */
#define FS_SHUTDOWN          _IOR('X', 125, uint32_t)
#define FS_SHUTDOWN_NO_FLUSH 2

int main(int argc, char **argv)
{
    uint32_t flags = FS_SHUTDOWN_NO_FLUSH;
    int fd = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;

    if (fd < 0 || ioctl(fd, FS_SHUTDOWN, &flags) != 0) {
        perror(argc == 2 ? argv[1] : "shutdown_fs FOLDER");
        return 1;
    }
    return 0;
}
