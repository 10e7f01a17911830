/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: every header that Rust needs something of. */
#include <linux/blk_types.h>
#include <linux/device-mapper.h>
#include <linux/dm-bufio.h>
#include <linux/dm-io.h>
#include <linux/dm-ioctl.h>
#include <linux/dm-kcopyd.h>

#include "persistent-data/dm-block-manager.h"
#include "persistent-data/dm-btree.h"
#include "persistent-data/dm-space-map-disk.h"
#include "persistent-data/dm-space-map-metadata.h"
#include "persistent-data/dm-transaction-manager.h"
#include "shim.h"

/* bindgen does not see through casts in macros, but evaluates constants. */
const blk_status_t DM_RS_STS_OK = BLK_STS_OK;
const blk_status_t DM_RS_STS_NOTSUPP = BLK_STS_NOTSUPP;
const blk_status_t DM_RS_STS_NOSPC = BLK_STS_NOSPC;
const blk_status_t DM_RS_STS_RESOURCE = BLK_STS_RESOURCE;
const blk_status_t DM_RS_STS_IOERR = BLK_STS_IOERR;
const blk_status_t DM_RS_STS_DM_REQUEUE = BLK_STS_DM_REQUEUE;
const blk_status_t DM_RS_STS_AGAIN = BLK_STS_AGAIN;
const blk_mode_t DM_RS_OPEN_READ = BLK_OPEN_READ;
const blk_mode_t DM_RS_OPEN_WRITE = BLK_OPEN_WRITE;
const u32 DM_RS_OP_MASK = REQ_OP_MASK;
const u32 DM_RS_FUA = REQ_FUA;
const u32 DM_RS_PREFLUSH = REQ_PREFLUSH;
const u32 DM_RS_SYNC = REQ_SYNC;
const u32 DM_RS_META = REQ_META;
const u32 DM_RS_NOWAIT = REQ_NOWAIT;
const u32 DM_RS_POLLED = REQ_POLLED;
const u32 DM_RS_RAHEAD = REQ_RAHEAD;
const u32 DM_RS_PAGE_SECTORS = PAGE_SECTORS;
const u32 DM_RS_NAME_LEN = DM_NAME_LEN;
const u64 DM_RS_SM_METADATA_MAX_BLOCKS = DM_SM_METADATA_MAX_BLOCKS;
