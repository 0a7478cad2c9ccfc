//! The members' port: open while this server is a member, and not before or after.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::Shutdown;

use crate::connect;
use crate::runtime::Runtime;

/// What is said to whoever is not let in: TLS's alert "internal error" (RFC 8446 §6.2: unrelated to the peer), in the clear, before any handshake.
/// Nobody has proved who says it, and whoever hears it tries again, as if the connection had been cut.
const NOT_NOW: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// See the module. Dropped, it closes.
pub struct Listening {
    socket: Arc<TcpListener>,
    port: u16,
}

impl Listening {
    /// Listens on the first of these that can be.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(runtime: &Arc<Runtime>, addresses: &[SocketAddr]) -> std::io::Result<Self> {
        let socket = Arc::new(TcpListener::bind(addresses)?);
        let port = socket.local_addr()?.port();
        let (accepts, runtime) = (socket.clone(), runtime.clone());
        std::thread::Builder::new()
            .name("accepts".into())
            .stack_size(256 * 1024)
            .spawn(move || accept(&runtime, &accepts))?;
        Ok(Self { socket, port })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // The thread that accepts wakes by it and ends, and with it the socket.
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Both);
    }
}

fn accept(runtime: &Arc<Runtime>, listener: &TcpListener) {
    loop {
        match listener.accept() {
            Ok((socket, from)) => came(runtime, socket, from),
            Err(e) if matches!(e.raw_os_error(), Some(22)) => return,
            // The caller has gone already, or there are no descriptors: those who have them end by themselves.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn came(runtime: &Arc<Runtime>, socket: TcpStream, from: SocketAddr) {
    let address: IpAddr = from.ip().to_canonical();
    let Some(link) = runtime.engine().came(address) else {
        // Seven bytes, which fit the buffer of any new socket; a signature is what is saved. Whoever has gone needs none.
        let _ = (&socket).write(&NOT_NOW);
        return;
    };
    connect::accepted(runtime, link, socket, from);
}
