//! The tables of SHOW: their columns, and rows of what the views show.
//!
//! Names, order and types are PgBouncer's (its `src/admin.c` and `src/stats.c`, and its documentation "SHOW commands") where it has the
//! table; columns of our own stand behind.

use serde_json::Value;

use super::Cell;

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `text`
    Text,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `numeric`; its values are whole numbers.
    Numeric,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $case:ident = $name:literal [$($kind:ident: $($column:ident)*;)*])*) => {
        /// A table that SHOW shows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Table { $($(#[$doc])* $case,)* }

        impl Table {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$case),*];

            /// Its name in SHOW, in lower case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$case => $name,)* }
            }

            /// Its columns, in order.
            pub fn columns(self) -> &'static [Column] {
                match self {
                    $(Self::$case => const {
                        &[$($(Column { name: stringify!($column), kind: Kind::$kind },)*)*]
                    },)*
                }
            }
        }
    };
}

tables! {
    /// One row a user in a database.
    Pools = "pools" [
        Text: database user;
        Int4: cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled sv_idle
              sv_used sv_tested sv_login maxwait maxwait_us;
        Text: pool_mode load_balance_hosts;
        Int4: paused cl_pinned cl_waiting_primary cl_paused sv_primary sv_replica;
    ]
    /// One row a client.
    Clients = "clients" [
        Text: type user database replication state addr;
        Int4: port;
        Text: local_addr;
        Int4: local_port;
        Text: connect_time request_time;
        Int4: wait wait_us close_needed;
        Text: ptr link;
        Int4: remote_pid;
        Text: tls application_name;
        Int4: prepared_statements id worker;
        Text: transaction waits_for pinned pinned_since member;
    ]
    /// One row a backend.
    Servers = "servers" [
        Text: type user database replication state addr;
        Int4: port;
        Text: local_addr;
        Int4: local_port;
        Text: connect_time request_time;
        Int4: wait wait_us close_needed;
        Text: ptr link;
        Int4: remote_pid;
        Text: tls application_name;
        Int4: prepared_statements id worker;
        Text: member role;
        Int8: epoch generation;
    ]
    /// One row a member of the cluster.
    Nodes = "nodes" [
        Text: name host;
        Int4: port;
        Text: role state;
        Int4: primary serves_reads;
        Text: why_not;
        Int4: weight;
        Int8: lag_bytes lag_ms timeline epoch;
        Int4: sv_active sv_idle sv_login;
    ]
    /// One row a database that clients used.
    Databases = "databases" [
        Text: name host;
        Int4: port;
        Text: database force_user;
        Int4: pool_size min_pool_size reserve_pool_size;
        Text: server_lifetime pool_mode load_balance_hosts;
        Int4: max_connections current_connections max_client_connections current_client_connections paused disabled reserve_pool;
    ]
    /// One row a user that logged in.
    Users = "users" [
        Text: name pool_size reserve_pool_size pool_mode;
        Int4: max_user_connections current_connections max_user_client_connections current_client_connections;
    ]
    /// Totals and averages by database.
    Stats = "stats" [
        Text: database;
        Numeric: total_server_assignment_count total_xact_count total_query_count total_received total_sent total_xact_time
                 total_query_time total_wait_time avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent
                 avg_xact_time avg_query_time avg_wait_time;
    ]
    /// Totals by database.
    StatsTotals = "stats_totals" [
        Text: database;
        Numeric: server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time;
    ]
    /// Averages by database.
    StatsAverages = "stats_averages" [
        Text: database;
        Numeric: server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time;
    ]
    /// The same over all databases, one row a figure.
    Totals = "totals" [Text: name; Numeric: value;]
    /// Counts of what there is.
    Lists = "lists" [Text: list; Int4: items;]
    /// What was learnt of statements.
    Routes = "routes" [Text: database statement; Int8: count; Text: since;]
    /// The failovers' record, the latest first; times in milliseconds from the first sign.
    Failovers = "failovers" [
        Text: began kind from to;
        Int8: epoch;
        Text: key_deleted_ms key_written_ms verified_ms first_write_ms;
        Int8: sessions kept waited longest_wait_ms rerun told_40001 told_08007 told_08006 gave_up ended;
    ]
    /// Every key of proxy.toml.
    Config = "config" [Text: key value default changeable;]
    /// What runs.
    Version = "version" [Text: version;]
    /// Whether it is paused.
    State = "state" [Text: key value;]
}

impl Table {
    /// The table of this name, in lower case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|table| table.name() == name)
    }

    /// Rows of a view's array of objects; what an object lacks is NULL.
    pub(super) fn rows(self, view: &Value) -> Vec<Vec<Cell>> {
        let row = |object: &Value| self.columns().iter().map(|column| cell(&object[column.name])).collect();
        view.as_array().into_iter().flatten().map(row).collect()
    }
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => None,
        Value::Bool(yes) => Some(if *yes { "1" } else { "0" }.to_owned()),
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(table: Table) -> Vec<&'static str> {
        table.columns().iter().map(|column| column.name).collect()
    }

    #[test]
    fn each_table_is_found_by_its_name() {
        for table in Table::ALL {
            assert_eq!(Table::named(table.name()), Some(*table));
            let mut columns = names(*table);
            columns.sort_unstable();
            columns.dedup();
            assert_eq!(columns.len(), table.columns().len(), "{table:?} has a column twice");
        }
        assert_eq!(Table::named("nothing"), None);
    }

    /// The exporter for Prometheus takes these two for something else if they have another number of columns.
    #[test]
    fn lists_and_config_are_pgbouncers_alone() {
        assert_eq!(names(Table::Lists), ["list", "items"]);
        assert_eq!(names(Table::Config), ["key", "value", "default", "changeable"]);
    }

    #[test]
    fn rows_follow_the_columns() {
        let view = json!([{ "count": 3, "statement": "SELECT $1", "more": 1 }, { "since": "now", "database": true }]);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            Table::Routes.rows(&view),
            [[None, text("SELECT $1"), text("3"), None], [text("1"), None, None, text("now")]]
        );
        assert_eq!(Table::Routes.rows(&json!(null)), Vec::<Vec<Cell>>::new());
    }
}
