/* Names the kernels that this processor has and that passed their known answers, best first. */
#include <stdio.h>

#include "engine/gcm/gcm.h"

int main(void)
{
    size_t count;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&count);
    for (size_t i = 0; i < count; i++)
        puts(kernels[i]->name);
    return 0;
}
