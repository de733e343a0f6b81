/* Preloaded into an RPC worker, this makes the machine look as if it had 96 GiB: plans for
   devices of that size can be held against dry runs, which take no memory, on any machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

long sysconf(int name) {
    long (*real)(int) = (long (*)(int)) dlsym(RTLD_NEXT, "sysconf");
    if (name == _SC_PHYS_PAGES) {
        return (96L << 30) / real(_SC_PAGE_SIZE);
    }
    return real(name);
}
