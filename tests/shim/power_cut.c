/* Stops file systems as a power cut does: `power_cut DIRECTORY...`.
 *
 * EXT4_IOC_SHUTDOWN with NOLOGFLUSH (ext4 and xfs know it): from that moment on nothing more reaches the device, neither
 * dirty pages nor the journal, and every call fails with EIO until the file system is unmounted and mounted again.
 * All directories are opened first, so that several file systems go within microseconds of each other. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SHUTDOWN _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2
#define DIRECTORIES_MAX 64

int main(int count, char **names) {
    int open_directories[DIRECTORIES_MAX];
    if (count < 2 || count > DIRECTORIES_MAX) {
        fprintf(stderr, "usage: power_cut DIRECTORY...\n");
        return 2;
    }
    for (int at = 1; at < count; at++) {
        open_directories[at] = open(names[at], O_RDONLY | O_DIRECTORY);
        if (open_directories[at] < 0) {
            fprintf(stderr, "%s: %s\n", names[at], strerror(errno));
            return 1;
        }
    }
    for (int at = 1; at < count; at++) {
        uint32_t how = NO_LOG_FLUSH;
        if (ioctl(open_directories[at], SHUTDOWN, &how) != 0) {
            fprintf(stderr, "%s: %s\n", names[at], strerror(errno));
            return 1;
        }
    }
    return 0;
}
