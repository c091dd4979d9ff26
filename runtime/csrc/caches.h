// What the library asks of the processor's caches.
#ifndef COMPRESS_CACHES_H_
#define COMPRESS_CACHES_H_

namespace compress {

// Lines that lie a multiple of 4 KiB apart and are in the first cache level at a time: its ways. 8 where the
// system does not say.
int first_level_ways();

// For tests: as if the processor had so many; 0 asks the system again.
void assume_first_level_ways(int ways);

}  // namespace compress

#endif  // COMPRESS_CACHES_H_
