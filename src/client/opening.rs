//! What comes before anybody is known: TLS, and the first packet.
//!
//! Nothing is taken beyond the packet that is due, and nothing may have come behind it when TLS follows: so no byte that came in clear is
//! ever taken for one that came under TLS.

use std::io;

use tokio_rustls::TlsAcceptor;

use super::handshake::{HandshakeError, close_with};
use crate::net::tls::{ALPN, ServerTls};
use crate::net::{Socket, Stream};
use crate::wire::startup::{ENCRYPTION_FOLLOWS, NO_ENCRYPTION, Opening, Startup, packet_len};
use crate::wire::{Refusal, SqlState};

/// First byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// A connection that has said what it wants.
#[derive(Debug)]
pub(super) enum Opened {
    /// To log in.
    Startup(Stream, Startup),
    /// To cancel.
    Cancel { process_id: u32, secret: Vec<u8>, stream: Stream },
}

/// What may still be asked for before the startup packet.
struct Open {
    ssl: bool,
    gss: bool,
}

/// Reads up to the startup packet or cancel request, going over to TLS where that is asked for.
pub(super) async fn open(tcp: Socket, tls: Option<&ServerTls>) -> Result<Opened, HandshakeError> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Err(HandshakeError::Closed);
    }
    let mut open = Open { ssl: true, gss: true };
    let mut stream = Stream::Plain(tcp);
    if first == [TLS_HANDSHAKE] {
        stream = direct_tls(stream, tls).await?;
        open = Open { ssl: false, gss: false };
    }
    loop {
        match read_packet(&mut stream).await? {
            Ok(Opening::Ssl) if open.ssl => {
                open.ssl = false;
                stream =
                    answer(stream, if tls.is_some() { ENCRYPTION_FOLLOWS } else { NO_ENCRYPTION }, "SSL")
                        .await?;
                if let Some(tls) = tls {
                    stream = go_over(stream, tls).await?;
                    open.gss = false;
                }
            }
            Ok(Opening::GssEnc) if open.gss => {
                open.gss = false;
                stream = answer(stream, NO_ENCRYPTION, "GSSAPI encryption").await?;
            }
            Ok(Opening::Cancel { process_id, secret }) => {
                return Ok(Opened::Cancel { process_id, secret, stream });
            }
            Ok(Opening::Startup(startup)) => return Ok(Opened::Startup(stream, startup)),
            Ok(twice) => return Err(close_with(stream, twice.unexpected()).await),
            Err(refusal) => return Err(close_with(stream, refusal).await),
        }
    }
}

/// Reads one packet.
async fn read_packet(stream: &mut Stream) -> io::Result<Result<Opening, Refusal>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let Some(len) = packet_len(header) else { return Ok(Err(Refusal::silent())) };
    let mut body = vec![0; len - header.len()];
    stream.read_exact(&mut body).await?;
    Ok(Opening::read(&body))
}

/// Answers a request for encryption, behind which nothing may have come yet.
async fn answer(mut stream: Stream, answer: u8, asked: &str) -> Result<Stream, HandshakeError> {
    let early = stream.tcp().has_pending()?;
    stream.write_all(&[answer]).await?;
    if !early {
        return Ok(stream);
    }
    let text = format!("received unencrypted data after {asked} request");
    let refusal = Refusal::new(SqlState::PROTOCOL_VIOLATION, text).with_detail(
        "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
    );
    Err(close_with(stream, refusal).await)
}

/// TLS without an SSLRequest (`sslnegotiation=direct`): only with the protocol's name in ALPN, so that no other
/// protocol's client can be made to speak to this port.
async fn direct_tls(stream: Stream, tls: Option<&ServerTls>) -> Result<Stream, HandshakeError> {
    let Some(tls) = tls else { return Err(close_with(stream, Refusal::silent()).await) };
    let stream = go_over(stream, tls).await?;
    let named = matches!(&stream, Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN));
    if named { Ok(stream) } else { Err(close_with(stream, Refusal::silent()).await) }
}

async fn go_over(stream: Stream, tls: &ServerTls) -> Result<Stream, HandshakeError> {
    let Stream::Plain(tcp) = stream else { return Err(HandshakeError::Closed) };
    let accepted = TlsAcceptor::from(std::sync::Arc::clone(&tls.config)).accept(tcp).await;
    accepted.map(|stream| Stream::Tls(Box::new(stream.into()))).map_err(HandshakeError::Tls)
}
