/*
 * Included before all else: what libclang does not show of the source is put beside it where it shows it.
 * Assembly has its text, macros expanded: __lift_asm[({ asm volatile(...); ("...", 0ull); })]. "asm (...)" alone stays a
 * statement: declarations have it too. Attributes that matter have an annotation.
 */
#ifndef __LIFT_ASM_H
#define __LIFT_ASM_H
extern const char __lift_asm[];
extern unsigned long long __lift_word;
#define __LIFT_TEXT_1(...) #__VA_ARGS__
#define __LIFT_TEXT(...) __LIFT_TEXT_1(__VA_ARGS__)
#define asm __lift_asm
#define __asm__ __lift_asm
#define __lift_asm(...) __asm(__VA_ARGS__)
#define volatile(...) [({ __asm volatile(__VA_ARGS__); (__LIFT_TEXT(__VA_ARGS__), 0ull); })]
#define __volatile__(...) volatile(__VA_ARGS__)
#define goto(...) [({ __asm goto(__VA_ARGS__); (__LIFT_TEXT(__VA_ARGS__), 0ull); })]
#define __cleanup__(f) __annotate__("__lift_cleanup " #f), __cleanup__(f)
#define __error__(text) __annotate__("__lift_error"), __error__(text)
#define __format__(...) __annotate__("__lift_format"), __format__(__VA_ARGS__)
#endif
