/* Seen first by all that is compiled for the explorer. */
#ifndef MODEL_HOOKS_H
#define MODEL_HOOKS_H

void model_spin(void);

#if defined(__x86_64__)
#define __builtin_ia32_pause() model_spin() /* who pauses looks again afterwards */
#endif

#endif
