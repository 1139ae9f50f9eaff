/* Static keys, as in overlay_base.h; included before all other headers, since these may use them in what they define. */
_Bool __lift_static_key(const void *key);
#define static_branch_likely(x) __lift_static_key((const void *)(x))
#define static_branch_unlikely(x) __lift_static_key((const void *)(x))
