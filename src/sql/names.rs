//! Relations and settings of PostgreSQL's own whose content depends on the member that is asked.
//!
//! Any member would answer; only the primary gives what a user of one single server expects.

/// Catalog views that are for the primary, by exact name; `pg_stat_…` and `pg_statio_…` come on top.
const VIEWS: &[&str] = &[
    // what one server's processes hold or do now
    "pg_aios",
    "pg_backend_memory_contexts",
    "pg_buffercache",
    "pg_buffercache_numa",
    "pg_locks",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
    // what one backend holds
    "pg_cursors",
    "pg_prepared_statements",
    // kept in the primary's memory or files alone, or in each member's own
    "pg_config",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    // positions are logged ahead of their use: a standby's are behind or before
    "pg_sequences",
    // columns of a sequence that is read as a relation
    "is_called",
    "last_value",
    "log_cnt",
];

/// Whether a relation (or a sequence's column) of this folded name is to be read on the primary.
pub(super) fn primary_view(name: &[u8]) -> bool {
    match name {
        [b'p', b'g', b'_', b's', b't', b'a', b't', rest @ ..] => {
            rest.starts_with(b"_") || rest.starts_with(b"io_")
        }
        [b'p', b'g', b'_', ..] | b"is_called" | b"last_value" | b"log_cnt" => {
            VIEWS.iter().any(|view| view.as_bytes() == name)
        }
        _ => false,
    }
}

/// Settings whose value is the member's own.
const SETTINGS: &[&str] = &[
    "all",
    "cluster_name",
    "config_file",
    "data_directory",
    "data_directory_mode",
    "default_transaction_read_only",
    "event_source",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "in_hot_standby",
    "listen_addresses",
    "port",
    "restore_command",
    "synchronous_standby_names",
    "synchronized_standby_slots",
    "sync_replication_slots",
    "transaction_read_only",
    "unix_socket_directories",
];

/// Settings that begin so are the member's own, too.
const SETTING_FAMILIES: &[&str] = &[
    "primary_",
    "recovery_",
    "hot_standby",
    "wal_receiver_",
    "archive_",
    "restore_",
    "huge_pages_",
    "shared_memory_",
];

/// Whether a setting of this name, in any case, may differ between the primary and a replica although the
/// session's own settings were brought in line.
pub(super) fn member_setting(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    SETTINGS.iter().any(|setting| setting.as_bytes() == name)
        || SETTING_FAMILIES.iter().any(|family| name.starts_with(family.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_settings_of_one_member() {
        for name in
            ["pg_stat_activity", "pg_statio_user_tables", "pg_stat_statements", "pg_locks", "pg_sequences"]
        {
            assert!(primary_view(name.as_bytes()), "{name}");
        }
        for name in
            ["pg_stats", "pg_statistic", "pg_statistic_ext", "pg_class", "pg_tables", "users", "pg_settings"]
        {
            assert!(!primary_view(name.as_bytes()), "{name}");
        }
        for name in ["IN_HOT_STANDBY", "port", "recovery_target", "primary_conninfo"] {
            assert!(member_setting(name.as_bytes()), "{name}");
        }
        for name in ["search_path", "app.user_id", "server_version", "primary"] {
            assert!(!member_setting(name.as_bytes()), "{name}");
        }
    }
}
