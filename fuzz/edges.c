/* Joins gcc's coverage to libFuzzer, which itself speaks with clang only.
 *
 * gcc's -fsanitize-coverage=trace-pc calls __sanitizer_cov_trace_pc at every edge: it is counted in a table that libFuzzer
 * is given as if clang had made it. trace-cmp calls what libFuzzer has functions for; these are handed on, so that the
 * fuzzer learns the numbers that the code compares with. Preloaded, so that the extensions find these functions. */

#include <dlfcn.h>
#include <stdint.h>
#include <stddef.h>

#define EDGES (1 << 15)

static uint8_t counters[EDGES];
static uintptr_t pcs[2 * EDGES];

static void (*cmp1)(uint8_t, uint8_t), (*cmp2)(uint16_t, uint16_t), (*cmp4)(uint32_t, uint32_t),
    (*cmp8)(uint64_t, uint64_t), (*many)(uint64_t, uint64_t *);

/* Called once, with the file of the extension that holds libFuzzer. 0 when that cannot be had. */
int edges_start(const char *libfuzzer)
{
    void *library = dlopen(libfuzzer, RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL)
        return 0;
    void (*counters_init)(uint8_t *, uint8_t *) = dlsym(library, "__sanitizer_cov_8bit_counters_init");
    void (*pcs_init)(const uintptr_t *, const uintptr_t *) = dlsym(library, "__sanitizer_cov_pcs_init");
    if (counters_init == NULL || pcs_init == NULL)
        return 0;
    for (size_t i = 0; i < EDGES; i++)
        pcs[2 * i] = i + 1; /* an address for each, of which only the difference matters */
    counters_init(counters, counters + EDGES);
    pcs_init(pcs, pcs + 2 * EDGES);
    cmp1 = dlsym(library, "__sanitizer_cov_trace_cmp1");
    cmp2 = dlsym(library, "__sanitizer_cov_trace_cmp2");
    cmp4 = dlsym(library, "__sanitizer_cov_trace_cmp4");
    cmp8 = dlsym(library, "__sanitizer_cov_trace_cmp8");
    many = dlsym(library, "__sanitizer_cov_trace_switch");
    return 1;
}

void __sanitizer_cov_trace_pc(void)
{
    uintptr_t pc = (uintptr_t)__builtin_return_address(0);
    counters[(pc * 0x9E3779B97F4A7C15u) >> (64 - 15)]++;
}

void __sanitizer_cov_trace_cmp1(uint8_t a, uint8_t b) { if (cmp1) cmp1(a, b); }
void __sanitizer_cov_trace_cmp2(uint16_t a, uint16_t b) { if (cmp2) cmp2(a, b); }
void __sanitizer_cov_trace_cmp4(uint32_t a, uint32_t b) { if (cmp4) cmp4(a, b); }
void __sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b) { if (cmp8) cmp8(a, b); }
void __sanitizer_cov_trace_const_cmp1(uint8_t a, uint8_t b) { if (cmp1) cmp1(a, b); }
void __sanitizer_cov_trace_const_cmp2(uint16_t a, uint16_t b) { if (cmp2) cmp2(a, b); }
void __sanitizer_cov_trace_const_cmp4(uint32_t a, uint32_t b) { if (cmp4) cmp4(a, b); }
void __sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b) { if (cmp8) cmp8(a, b); }
/* libFuzzer has nothing for floating point. */
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a; (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a; (void)b; }
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) { if (many) many(value, cases); }
