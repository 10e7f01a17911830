// SPDX-License-Identifier: GPL-2.0
/*
 * C for what bindings cannot express: inline functions and macros.
 */

#include <linux/device-mapper.h>

unsigned int dm_snap_mv_shim_sector_shift(void);

unsigned int dm_snap_mv_shim_sector_shift(void)
{
	return SECTOR_SHIFT;
}
