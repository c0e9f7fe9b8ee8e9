/* A CUDA driver that checks what crosses from Python to C, and answers with a few numbers. Status 1: something is off. */
#include <stdint.h>
#include <string.h>

static void *context = (void *)0x11, *module = (void *)0x22, *function = (void *)0x33;
static void *current;
uint64_t seen[64];

int cuDevicePrimaryCtxRetain(void **made, int device) { *made = context; return device != 5; }
int cuCtxSetCurrent(void *made) { current = made; return made != context; }
int cuModuleLoadData(void **made, const char *code) { *made = module; return memcmp(code, "a\0b", 4) || !current; }
int cuModuleGetFunction(void **made, void *of, const char *name) {
  *made = function;
  return of != module || strcmp(name, "kernel");
}
int cuFuncSetCacheConfig(void *of, int config) { return of != function || config != 1; }
int cuFuncSetAttribute(void *of, int what, int value) { return of != function || what != 8 || value != 100000; }
int cuGetErrorString(int status, const char **text) { *text = "off"; return status != 1; }

int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address, const uint64_t *sizes,
                           const uint64_t *strides, const unsigned *box, const unsigned *steps, int interleave,
                           int swizzle, int promotion, int fill) {
  if ((uint64_t)map % 64 || interleave || promotion != 2 || fill) return 1;
  uint64_t said[] = {type, rank, (uint64_t)address, swizzle};
  memcpy(seen, said, sizeof said);
  for (unsigned i = 0; i < rank; i++) {
    seen[4 + i] = sizes[i];
    if (i + 1 < rank) seen[8 + i] = strides[i];
    seen[12 + i] = box[i];
    if (steps[i] != 1) return 1;
  }
  memset(map, 7, 128);
  return 0;
}

int cuLaunchKernel(void *of, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz, unsigned shared,
                   void *stream, void **parameters, void **extra) {
  if (of != function || y != 1 || z != 1 || ty != 1 || tz != 1 || extra) return 1;
  uint64_t said[] = {x, tx, shared, (uint64_t)stream};
  memcpy(seen, said, sizeof said);
  memcpy(seen + 4, parameters[0], 128);
  seen[20] = *(uint64_t *)parameters[9]; /* after a map, four sizes and four strides */
  memcpy(seen + 21, parameters[10], 4);
  seen[22] = *(int *)parameters[11];
  seen[23] = *(uint64_t *)parameters[12];
  seen[24] = *(uint64_t *)parameters[13];
  return 0;
}
