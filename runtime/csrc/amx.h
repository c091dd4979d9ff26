// AMX, x86's instructions on matrices: their registers are larger than all others together, so Linux gives
// them only to processes that ask.
#ifndef COMPRESS_AMX_H_
#define COMPRESS_AMX_H_

namespace compress {

// True where the processor multiplies matrices of bytes and the system lets this process do so, from now on.
bool amx_permitted();

}  // namespace compress

#endif  // COMPRESS_AMX_H_
