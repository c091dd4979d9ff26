# Builds for 64-bit ARM Linux on another machine, with Debian's and Ubuntu's cross compiler (g++-aarch64-linux-gnu):
#   cmake -S . -B build-arm -DCMAKE_TOOLCHAIN_FILE=runtime/csrc/toolchains/aarch64-linux-gnu.cmake
# What runs on this machine while CMake or a test looks on goes through qemu-aarch64 where that is installed (qemu-user).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

find_program(COMPRESS_QEMU qemu-aarch64)
if(COMPRESS_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${COMPRESS_QEMU};-L;/usr/aarch64-linux-gnu)
endif()

# Headers and libraries of the target only; programs of this machine.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
