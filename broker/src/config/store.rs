//! The part of the configuration that the storage crate is given.

use streambus_storage::config::StoreConfig;

use super::StorageConfig;

impl StorageConfig {
    /// The store's settings. Sizes above what this machine can address become the largest it can.
    pub fn store_config(&self) -> StoreConfig {
        let addressable = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        StoreConfig {
            segment_bytes: self.segment_bytes,
            group_bytes: small(self.commit_bytes),
            queue_bytes_max: small(self.commit_queue_bytes),
            spare_segments_max: self.spare_segments,
            tail_cache_bytes: addressable(self.tail_cache_bytes),
            extent_bytes_max: small(self.extent_bytes_max),
            extents_in_memory_max: addressable(self.extents_in_memory.into()),
            disk_reserve_bytes: self.disk_reserve_bytes,
            disk_reserve_ratio: f64::from(self.disk_reserve_percent) / 100.0,
            producer_expiry: self.producer_expiry,
            producers_per_log_max: addressable(self.producers_per_partition.into()),
            index_cache_bytes: addressable(self.index_cache_bytes),
            index_write_buffer_bytes: addressable(self.index_write_buffer_bytes),
            compaction: StoreConfig::default().compaction,
            compaction_pause: StoreConfig::default().compaction_pause,
            clean_map_bytes: addressable(self.compaction_map_bytes),
            clean_pause: StoreConfig::default().clean_pause,
            // The wire's limit is the store's: topics choose below it.
            batch_bytes_max: StoreConfig::default().batch_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The store's defaults and ours are written down twice; this is what keeps them one.
    #[test]
    fn our_defaults_are_the_stores_defaults_and_pass_its_own_check() {
        let config = StorageConfig::default().store_config();
        assert_eq!(config, StoreConfig::default());
        assert!(config.validate().is_ok());
    }
}
