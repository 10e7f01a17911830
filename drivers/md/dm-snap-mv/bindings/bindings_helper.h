/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: every header that Rust needs something of. */
#include <linux/device-mapper.h>
