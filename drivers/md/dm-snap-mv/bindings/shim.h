/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust needs of device-mapper, the block layer and persistent-data and cannot
 * call itself, being inline functions and macros there. No decision is made here.
 */
#ifndef _DM_SNAP_MV_SHIM_H
#define _DM_SNAP_MV_SHIM_H

#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/mempool.h>
#include <linux/percpu.h>
#include <linux/rbtree.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

struct dm_block;
struct dm_bufio_client;
struct dm_io_client;
struct dm_space_map;

/* Bios */
void dm_rs_bio_set_dev(struct bio *bio, struct block_device *bdev);
void dm_rs_bio_advance(struct bio *bio, unsigned int bytes);
void dm_rs_bio_zero_front(struct bio *bio, unsigned int bytes);
void dm_rs_bio_restart(struct bio *bio);
struct bio *dm_rs_bio_part(struct bio *bio, unsigned int bytes,
			   struct block_device *bdev, sector_t sector,
			   struct bio_set *bs);

/* Mapped devices */
unsigned int dm_rs_md_openers(struct mapped_device *md);
dev_t dm_rs_md_dev(struct mapped_device *md);
struct block_device *dm_rs_md_bdev(struct mapped_device *md);

/* Block devices */
struct file *dm_rs_bdev_open(dev_t dev, blk_mode_t mode);
struct file *dm_rs_get_file(struct file *file);
dev_t dm_rs_bdev_dev(struct block_device *bdev);
void dm_rs_bdev_name(struct block_device *bdev, char *name, size_t size);
sector_t dm_rs_bdev_sectors(struct block_device *bdev);
u64 dm_rs_bdev_requests(struct block_device *bdev);
bool dm_rs_bdev_read_only(struct block_device *bdev);
bool dm_rs_bdev_has_write_cache(struct block_device *bdev);
unsigned int dm_rs_bdev_max_discard_sectors(struct block_device *bdev);
unsigned int dm_rs_bdev_discard_granularity(struct block_device *bdev);
unsigned int dm_rs_bdev_write_zeroes_sectors(struct block_device *bdev);
unsigned int dm_rs_bdev_logical_block_size(struct block_device *bdev);
unsigned int dm_rs_bdev_physical_block_size(struct block_device *bdev);
int dm_rs_bdev_flush(struct block_device *bdev);
void dm_rs_bdev_stack_memory(struct block_device *bdev, struct queue_limits *limits);
bool dm_rs_bdev_is_zoned(struct block_device *bdev);
dev_t dm_rs_bdev_whole(struct block_device *bdev);
unsigned int dm_rs_bdev_neighbours(struct block_device *bdev, bool above, dev_t *devs,
				   unsigned int max);
unsigned int dm_rs_bdev_called(struct block_device *bdev, u8 *text, unsigned int max);
int dm_rs_md_name(dev_t dev, char *name);

bool dm_rs_bdev_is_frozen(struct block_device *bdev);
void dm_rs_bdev_forget_freeze(struct block_device *bdev);

/* Locks and counters */
unsigned long dm_rs_spin_lock_irqsave(spinlock_t *lock);
bool dm_rs_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags);
void dm_rs_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);
void dm_rs_global_lock(void);
void dm_rs_global_unlock(void);

/* Counters of which each CPU has its part. Any context, but for the first two. */
unsigned long __percpu *dm_rs_counter_alloc(void);
void dm_rs_counter_free(unsigned long __percpu *counter);
void dm_rs_counter_inc(unsigned long __percpu *counter);
void dm_rs_counter_dec(unsigned long __percpu *counter);
unsigned long dm_rs_counter_sum(unsigned long __percpu *counter);

/* Ranges */
struct dm_rs_range {
	struct rb_node rb;
	u64 start;
	u64 last;
	u64 subtree_last;
	/* Of those that wait: who has the least is first. */
	u64 turn;
	bool exclusive;
	/* Somebody could not lock because of it. */
	bool waited_for;
};

struct dm_rs_range *dm_rs_range_conflict(struct rb_root_cached *root, u64 start,
					 u64 last, bool exclusive);
struct dm_rs_range *dm_rs_range_before(struct rb_root_cached *root, u64 start,
				       u64 last, u64 turn);
void dm_rs_range_insert(struct dm_rs_range *range, struct rb_root_cached *root);
void dm_rs_range_remove(struct dm_rs_range *range, struct rb_root_cached *root);

/* Memory, work, time */
mempool_t *dm_rs_mempool_create(int min, size_t size);
void *dm_rs_mempool_alloc(mempool_t *pool);
unsigned int dm_rs_noio_save(void);
void dm_rs_noio_restore(unsigned int flags);
struct workqueue_struct *dm_rs_alloc_workqueue(const char *name, bool ordered);
struct workqueue_struct *dm_rs_alloc_long_workqueue(const char *name);
void dm_rs_module_get(void);
void dm_rs_module_put(void);
unsigned int dm_rs_num_online_cpus(void);
int dm_rs_other_cpu(unsigned int n);

/* dm-io */
enum dm_rs_memory {
	DM_RS_MEMORY_OTHER,
	DM_RS_MEMORY_KMEM,
	DM_RS_MEMORY_VMA,
};

enum dm_rs_memory dm_rs_memory(const void *data, size_t len);
int dm_rs_io(struct dm_io_client *client, blk_opf_t opf, struct block_device *bdev,
	     sector_t sector, sector_t count, void *data, enum dm_rs_memory memory);

/* Metadata blocks */
struct dm_bufio_client *dm_rs_block_client(struct dm_block *block);
bool dm_rs_buffer_is_validated(struct dm_buffer *buffer);

/* Space maps */
void dm_rs_sm_destroy(struct dm_space_map *sm);
int dm_rs_sm_nr_blocks(struct dm_space_map *sm, u64 *count);
int dm_rs_sm_nr_free(struct dm_space_map *sm, u64 *count);
int dm_rs_sm_count(struct dm_space_map *sm, u64 b, u32 *count);
int dm_rs_sm_inc(struct dm_space_map *sm, u64 b, u64 e);
int dm_rs_sm_dec(struct dm_space_map *sm, u64 b, u64 e);
int dm_rs_sm_new_block(struct dm_space_map *sm, u64 *b);
int dm_rs_sm_extend(struct dm_space_map *sm, u64 extra);
int dm_rs_sm_commit(struct dm_space_map *sm);
int dm_rs_sm_root_size(struct dm_space_map *sm, size_t *size);
int dm_rs_sm_copy_root(struct dm_space_map *sm, void *root, size_t len);

#endif
