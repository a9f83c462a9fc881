//! Any bytes as the first packet of a connection, and any text as its `options`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_ha_proxy::wire::startup::{Opening, packet_len};
use pg_ha_proxy::wire::{login, options};

fuzz_target!(|data: &[u8]| {
    if let Some(header) = data.first_chunk() {
        assert!(packet_len(*header).is_none_or(|length| (8..=10_000).contains(&length)));
    }
    if let Ok(Opening::Startup(startup)) = Opening::read(data) {
        assert!(!startup.user.is_empty() && !startup.database.is_empty());
        assert!(startup.negotiated_minor() <= startup.minor || startup.needs_negotiation());
        login::negotiate_protocol_version(&mut Vec::new(), &startup);
        let known = [("user", &*startup.user), ("database", &*startup.database)];
        // a client's settings go to no packet, so that their names may be any; here they do
        let plain = |name: &str| {
            !matches!(name, "" | "user" | "database" | "options" | "replication")
                && !name.starts_with("_pq_.")
        };
        let pairs = startup
            .parameters
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .filter(|(name, _)| plain(name));
        let mut packet = Vec::new();
        login::startup(&mut packet, startup.minor, known.into_iter().chain(pairs));
        let Ok(Opening::Startup(again)) = Opening::read(&packet[4..]) else {
            panic!("its own packet is refused")
        };
        assert_eq!(
            (again.user, again.database, again.minor),
            (startup.user, startup.database, startup.minor)
        );
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = options::read(text);
    }
});
