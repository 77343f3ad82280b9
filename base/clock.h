/* The two clocks. Tests may shift wall time; nothing else may. Any thread. */
#ifndef HPL_BASE_CLOCK_H
#define HPL_BASE_CLOCK_H

#include <stdint.h>

uint64_t hpl_clock_mono_ns(void);  /* for deadlines and durations */
int64_t hpl_clock_unix_ms(void);   /* for what people and protocols see */
void hpl_clock_shift_ms(int64_t by); /* tests only: wall time as if by ms later */

#endif
