// SPDX-License-Identifier: GPL-2.0
/*
 * C for what bindings cannot express: inline functions and macros. What each may be
 * called from, and under which locks, is said where Rust calls it.
 */
#include <linux/bio.h>
#include <linux/bio-integrity.h>
#include <linux/blkdev.h>
#include <linux/cred.h>
#include <linux/device.h>
#include <linux/dm-bufio.h>
#include <linux/dm-io.h>
#include <linux/dm-ioctl.h>
#include <linux/file.h>
#include <linux/interval_tree_generic.h>
#include <linux/kernfs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/part_stat.h>
#include <linux/sched/isolation.h>
#include <linux/sched/mm.h>

#include "persistent-data/dm-block-manager.h"
#include "persistent-data/dm-space-map.h"
#include "shim.h"

/* Bios */

void dm_rs_bio_set_dev(struct bio *bio, struct block_device *bdev)
{
	bio_set_dev(bio, bdev);
}

void dm_rs_bio_advance(struct bio *bio, unsigned int bytes)
{
	bio_advance(bio, bytes);
}

void dm_rs_bio_zero_front(struct bio *bio, unsigned int bytes)
{
	struct bvec_iter iter, start = bio->bi_iter;
	struct bio_vec bv;

	start.bi_size = bytes;
	__bio_for_each_segment(bv, bio, iter, start)
		memzero_bvec(&bv);
	bio_advance(bio, bytes);
}

/*
 * A bio that has been through bio_endio() is to go down, or to end, once more: undo
 * what would make the block layer account for it twice or end it too early.
 */
void dm_rs_bio_restart(struct bio *bio)
{
	bio_clear_flag(bio, BIO_CHAIN);
	bio_clear_flag(bio, BIO_QOS_THROTTLED);
	bio_clear_flag(bio, BIO_QOS_MERGED);
	bio_clear_flag(bio, BIO_TRACE_COMPLETION);
	atomic_set(&bio->__bi_remaining, 1);
}

struct bio *dm_rs_bio_part(struct bio *bio, unsigned int bytes,
			   struct block_device *bdev, sector_t sector,
			   struct bio_set *bs)
{
	struct bio *part;

	part = bio_alloc_clone(bdev, bio, GFP_NOIO, bs);
	if (!part)
		return NULL;

	part->bi_iter.bi_size = bytes;
	if (bio_integrity(part))
		bio_integrity_trim(part);
	part->bi_iter.bi_sector = sector;
	bio_advance(bio, bytes);

	return part;
}

/* Mapped devices */

unsigned int dm_rs_md_openers(struct mapped_device *md)
{
	return disk_openers(dm_disk(md));
}

dev_t dm_rs_md_dev(struct mapped_device *md)
{
	return disk_devt(dm_disk(md));
}

/* It goes with the mapped device. */
struct block_device *dm_rs_md_bdev(struct mapped_device *md)
{
	return dm_disk(md)->part0;
}

/* Block devices */

struct file *dm_rs_bdev_open(dev_t dev, blk_mode_t mode)
{
	struct file *file;

	/* As device-mapper does: the opener's own credentials must not be pinned. */
	scoped_with_kernel_creds()
		file = bdev_file_open_by_dev(dev, mode, NULL, NULL);

	return file;
}

struct file *dm_rs_get_file(struct file *file)
{
	return get_file(file);
}

dev_t dm_rs_bdev_dev(struct block_device *bdev)
{
	return bdev->bd_dev;
}

void dm_rs_bdev_name(struct block_device *bdev, char *name, size_t size)
{
	snprintf(name, size, "%pg", bdev);
}

sector_t dm_rs_bdev_sectors(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev);
}

u64 dm_rs_bdev_requests(struct block_device *bdev)
{
	return part_stat_read_accum(bdev, ios);
}

bool dm_rs_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

bool dm_rs_bdev_has_write_cache(struct block_device *bdev)
{
	return bdev_write_cache(bdev);
}

unsigned int dm_rs_bdev_max_discard_sectors(struct block_device *bdev)
{
	return bdev_max_discard_sectors(bdev);
}

unsigned int dm_rs_bdev_discard_granularity(struct block_device *bdev)
{
	return bdev_discard_granularity(bdev);
}

unsigned int dm_rs_bdev_write_zeroes_sectors(struct block_device *bdev)
{
	return bdev_write_zeroes_sectors(bdev);
}

unsigned int dm_rs_bdev_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

unsigned int dm_rs_bdev_physical_block_size(struct block_device *bdev)
{
	return bdev_physical_block_size(bdev);
}

int dm_rs_bdev_flush(struct block_device *bdev)
{
	return blkdev_issue_flush(bdev);
}

/*
 * What the block layer cannot see to by splitting a bio, or can only if it knows of it
 * when the bio is made: where its pages may lie. blk_stack_limits() does this, and much
 * else that is of no concern to a device that is only read.
 */
void dm_rs_bdev_stack_memory(struct block_device *bdev, struct queue_limits *limits)
{
	const struct queue_limits *below = bdev_limits(bdev);

	limits->dma_alignment = max(limits->dma_alignment, below->dma_alignment);
	limits->dma_pad_mask = max(limits->dma_pad_mask, below->dma_pad_mask);
	limits->virt_boundary_mask = min_not_zero(limits->virt_boundary_mask,
						  below->virt_boundary_mask);
	limits->seg_boundary_mask = min_not_zero(limits->seg_boundary_mask,
						 below->seg_boundary_mask);
	limits->max_segment_size = min_not_zero(limits->max_segment_size,
						below->max_segment_size);
	limits->max_segments = min_not_zero(limits->max_segments, below->max_segments);
}

bool dm_rs_bdev_is_zoned(struct block_device *bdev)
{
	return bdev_is_zoned(bdev);
}

dev_t dm_rs_bdev_whole(struct block_device *bdev)
{
	return bdev_whole(bdev)->bd_dev;
}

/*
 * What sysfs shows in "holders" of a block device (@above) or in "slaves" of its disk:
 * all that the kernel itself keeps of how devices lie on one another. Puts the first
 * @max numbers into @devs, and returns how many there are.
 */
unsigned int dm_rs_bdev_neighbours(struct block_device *bdev, bool above, dev_t *devs,
				   unsigned int max)
{
	struct gendisk *disk = bdev->bd_disk;
	struct class_dev_iter iter;
	struct kernfs_node *link;
	unsigned int found = 0;
	struct kobject *dir;
	struct device *dev;

	/* del_gendisk() gives these folders up after it was here. */
	mutex_lock(&disk->open_mutex);
	dir = above ? bdev->bd_holder_dir : disk->slave_dir;
	if (dir && disk_live(disk)) {
		class_dev_iter_init(&iter, disk_to_dev(disk)->class, NULL, NULL);
		while ((dev = class_dev_iter_next(&iter))) {
			link = kernfs_find_and_get(dir->sd, dev_name(dev));
			if (!link)
				continue;
			kernfs_put(link);
			if (found < max)
				devs[found] = dev->devt;
			found++;
		}
		class_dev_iter_exit(&iter);
	}
	mutex_unlock(&disk->open_mutex);

	return found;
}

/*
 * What a block device is called that stays with it, whatever its number: the UUID of a
 * partition or of a mapped device, or what its maker calls it. At most @max bytes; 0:
 * there is nothing of the kind.
 */
unsigned int dm_rs_bdev_called(struct block_device *bdev, u8 *text, unsigned int max)
{
	struct gendisk *disk = bdev->bd_disk;
	char uuid[DM_UUID_LEN] = "";
	struct mapped_device *md;
	u8 id[16];
	int type, len;

	if (bdev_is_partition(bdev)) {
		if (!bdev->bd_meta_info)
			return 0;
		return scnprintf(text, max, "PARTUUID=%s", bdev->bd_meta_info->uuid);
	}
	md = dm_get_md(bdev->bd_dev);
	if (md) {
		if (dm_copy_name_and_uuid(md, NULL, uuid))
			uuid[0] = '\0';
		dm_put(md);
		return uuid[0] ? scnprintf(text, max, "DM=%s", uuid) : 0;
	}
	if (!disk->fops->get_unique_id)
		return 0;
	for (type = BLK_UID_NAA; type >= BLK_UID_T10; type--) {
		len = disk->fops->get_unique_id(disk, id, type);
		if (len > 0)
			return scnprintf(text, max, "ID%d=%*phN", type,
					 min_t(int, len, sizeof(id)), id);
	}
	return 0;
}

/* What users call a mapped device; @name has room for DM_NAME_LEN bytes. */
int dm_rs_md_name(dev_t dev, char *name)
{
	struct mapped_device *md = dm_get_md(dev);
	int r;

	if (!md)
		return -ENXIO;
	r = dm_copy_name_and_uuid(md, name, NULL);
	dm_put(md);
	return r;
}

/*
 * Whether bdev_freeze() has succeeded, and nobody is about to change that: while it
 * freezes or thaws, the mutex is held.
 */
bool dm_rs_bdev_is_frozen(struct block_device *bdev)
{
	return atomic_read(&bdev->bd_fsfreeze_count) > 0 &&
	       !mutex_is_locked(&bdev->bd_fsfreeze_mutex);
}

/*
 * bdev_thaw() counts a freeze again that it could not undo. When that is because
 * nothing is frozen, it must not be counted: no later bdev_freeze() would freeze
 * anything, and nothing could be mounted.
 */
void dm_rs_bdev_forget_freeze(struct block_device *bdev)
{
	mutex_lock(&bdev->bd_fsfreeze_mutex);
	atomic_dec_if_positive(&bdev->bd_fsfreeze_count);
	mutex_unlock(&bdev->bd_fsfreeze_mutex);
}

/* Locks and counters */

unsigned long dm_rs_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

bool dm_rs_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags)
{
	unsigned long saved;

	if (!spin_trylock_irqsave(lock, saved))
		return false;
	*flags = saved;
	return true;
}

void dm_rs_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

/* Defined here, since Rust cannot initialise a mutex statically. */
static DEFINE_MUTEX(dm_rs_global_mutex);

void dm_rs_global_lock(void)
{
	mutex_lock(&dm_rs_global_mutex);
}

void dm_rs_global_unlock(void)
{
	mutex_unlock(&dm_rs_global_mutex);
}

unsigned long __percpu *dm_rs_counter_alloc(void)
{
	return alloc_percpu(unsigned long);
}

void dm_rs_counter_free(unsigned long __percpu *counter)
{
	free_percpu(counter);
}

void dm_rs_counter_inc(unsigned long __percpu *counter)
{
	this_cpu_inc(*counter);
}

void dm_rs_counter_dec(unsigned long __percpu *counter)
{
	this_cpu_dec(*counter);
}

unsigned long dm_rs_counter_sum(unsigned long __percpu *counter)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter, cpu));
	return sum;
}

/* Ranges */

#define RANGE_START(range) ((range)->start)
#define RANGE_LAST(range) ((range)->last)

INTERVAL_TREE_DEFINE(struct dm_rs_range, rb, u64, subtree_last, RANGE_START,
		     RANGE_LAST, static inline, range_tree)

/* The first one that does not go with another. */
struct dm_rs_range *dm_rs_range_conflict(struct rb_root_cached *root, u64 start,
					 u64 last, bool exclusive)
{
	struct dm_rs_range *range;

	for (range = range_tree_iter_first(root, start, last); range;
	     range = range_tree_iter_next(range, start, last))
		if (exclusive || range->exclusive)
			break;

	return range;
}

/* One whose turn is before another's. */
struct dm_rs_range *dm_rs_range_before(struct rb_root_cached *root, u64 start,
				       u64 last, u64 turn)
{
	struct dm_rs_range *range;

	for (range = range_tree_iter_first(root, start, last); range;
	     range = range_tree_iter_next(range, start, last))
		if (range->turn < turn)
			break;

	return range;
}

void dm_rs_range_insert(struct dm_rs_range *range, struct rb_root_cached *root)
{
	range_tree_insert(range, root);
}

void dm_rs_range_remove(struct dm_rs_range *range, struct rb_root_cached *root)
{
	range_tree_remove(range, root);
}

/* Memory, work, time */

mempool_t *dm_rs_mempool_create(int min, size_t size)
{
	return mempool_create_kmalloc_pool(min, size);
}

void *dm_rs_mempool_alloc(mempool_t *pool)
{
	return mempool_alloc(pool, GFP_NOIO);
}

unsigned int dm_rs_noio_save(void)
{
	return memalloc_noio_save();
}

void dm_rs_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

struct workqueue_struct *dm_rs_alloc_workqueue(const char *name, bool ordered)
{
	if (ordered)
		return alloc_ordered_workqueue("%s", WQ_MEM_RECLAIM, name);
	return alloc_workqueue("%s", WQ_MEM_RECLAIM | WQ_PERCPU, 0, name);
}

/* For what may wait for long, any number at once. */
struct workqueue_struct *dm_rs_alloc_long_workqueue(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND, 0, name);
}

void dm_rs_module_get(void)
{
	__module_get(THIS_MODULE);
}

void dm_rs_module_put(void)
{
	module_put(THIS_MODULE);
}

unsigned int dm_rs_num_online_cpus(void)
{
	return num_online_cpus();
}

/*
 * The processor that comes @n behind this one, of those that are meant for such
 * work. It may go offline at any time, which queue_work_on() puts up with.
 */
int dm_rs_other_cpu(unsigned int n)
{
	const struct cpumask *mask;
	unsigned int cpu = raw_smp_processor_id();

	rcu_read_lock();
	mask = housekeeping_cpumask(HK_TYPE_WQ);
	while (n-- && cpu < nr_cpu_ids)
		cpu = cpumask_next_and_wrap(cpu, mask, cpu_online_mask);
	rcu_read_unlock();
	return cpu < nr_cpu_ids ? cpu : WORK_CPU_UNBOUND;
}

/* dm-io */

enum dm_rs_memory dm_rs_memory(const void *data, size_t len)
{
	if (is_vmalloc_addr(data))
		return DM_RS_MEMORY_VMA;
	if (virt_addr_valid(data) && virt_addr_valid(data + len - 1))
		return DM_RS_MEMORY_KMEM;
	return DM_RS_MEMORY_OTHER;
}

int dm_rs_io(struct dm_io_client *client, blk_opf_t opf, struct block_device *bdev,
	     sector_t sector, sector_t count, void *data, enum dm_rs_memory memory)
{
	struct dm_io_region region = {
		.bdev = bdev,
		.sector = sector,
		.count = count,
	};
	struct dm_io_request request = {
		.bi_opf = opf,
		.mem.type = memory == DM_RS_MEMORY_VMA ? DM_IO_VMA : DM_IO_KMEM,
		.mem.ptr.addr = data,
		.client = client,
	};
	unsigned long error = 0;
	int r;

	r = dm_io(&request, 1, &region, &error, NULL, IOPRIO_DEFAULT);
	if (!r && error)
		r = -EIO;
	return r;
}

/* Metadata blocks */

/*
 * A block of a block manager is a buffer of dm-bufio under another name, see
 * to_buffer() in dm-block-manager.c. That it still is one is asked before use.
 */
struct dm_bufio_client *dm_rs_block_client(struct dm_block *block)
{
	struct dm_buffer *buffer = (struct dm_buffer *)block;

	if (dm_bufio_get_block_number(buffer) != dm_block_location(block) ||
	    dm_bufio_get_block_data(buffer) != dm_block_data(block))
		return NULL;
	return dm_bufio_get_client(buffer);
}

/*
 * With each buffer the block manager keeps a struct buffer_aux, which begins with the
 * validator that has passed the block; one that was only read from dm-bufio has none.
 */
bool dm_rs_buffer_is_validated(struct dm_buffer *buffer)
{
	return *(void **)dm_bufio_get_aux_data(buffer);
}

/* Space maps */

void dm_rs_sm_destroy(struct dm_space_map *sm)
{
	dm_sm_destroy(sm);
}

int dm_rs_sm_nr_blocks(struct dm_space_map *sm, u64 *count)
{
	return dm_sm_get_nr_blocks(sm, count);
}

int dm_rs_sm_nr_free(struct dm_space_map *sm, u64 *count)
{
	return dm_sm_get_nr_free(sm, count);
}

int dm_rs_sm_count(struct dm_space_map *sm, u64 b, u32 *count)
{
	return dm_sm_get_count(sm, b, count);
}

int dm_rs_sm_inc(struct dm_space_map *sm, u64 b, u64 e)
{
	return dm_sm_inc_blocks(sm, b, e);
}

int dm_rs_sm_dec(struct dm_space_map *sm, u64 b, u64 e)
{
	return dm_sm_dec_blocks(sm, b, e);
}

int dm_rs_sm_new_block(struct dm_space_map *sm, u64 *b)
{
	return dm_sm_new_block(sm, b);
}

int dm_rs_sm_extend(struct dm_space_map *sm, u64 extra)
{
	return dm_sm_extend(sm, extra);
}

int dm_rs_sm_commit(struct dm_space_map *sm)
{
	return dm_sm_commit(sm);
}

int dm_rs_sm_root_size(struct dm_space_map *sm, size_t *size)
{
	return dm_sm_root_size(sm, size);
}

int dm_rs_sm_copy_root(struct dm_space_map *sm, void *root, size_t len)
{
	return dm_sm_copy_root(sm, root, len);
}
