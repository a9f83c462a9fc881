//! Any bytes as messages: frames are cut in order and within what is there, and what takes a body apart takes any.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_ha_proxy::wire::login::{self, AuthRequest};
use pg_ha_proxy::wire::{ErrorFields, Frames, HEADER_LEN, TxStatus, build, parts};

const LIMIT: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let mut frames = Frames::new(data, LIMIT);
    let mut taken = 0;
    while let Ok(Some(frame)) = frames.next_frame() {
        let body = frame.body();
        taken += HEADER_LEN + body.len();
        assert!(taken <= data.len() && body.len() <= LIMIT);
        assert_eq!(&data[taken - body.len()..taken], body);
        assert_eq!(frames.rest(), &data[taken..]);
        apart(body);
    }
    apart(data);
});

fn apart(body: &[u8]) {
    if let Some((text, rest)) = parts::cstr(body) {
        assert_eq!(text.len() + 1 + rest.len(), body.len());
    }
    let error = ErrorFields::new(body);
    let (_, _, _) = (error.state(), error.message(), error.is_fatal());
    error.field(b'M');
    build::as_error(body);
    parts::parameter_status(body);
    parts::Parse::read(body);
    parts::Bind::read(body);
    parts::Named::read(body);
    if let Some(row) = parts::text_row(body) {
        assert!(row.iter().flatten().map(|value| value.len()).sum::<usize>() <= body.len());
    }
    AuthRequest::read(body);
    login::sasl_initial_response(body);
    login::backend_key_data(body);
    if let Some(&byte) = body.first() {
        assert!(TxStatus::from_byte(byte).is_none_or(|status| status.byte() == byte));
    }
}
