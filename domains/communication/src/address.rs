//! Where this member is, and where it has heard that others are.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::token::Endpoint;
use gtvp_model::union::MemberId;
use gtvp_protocol::neighbour::{Endpoints, Place};

use crate::clock;
use crate::runtime::Runtime;

/// Addresses that nobody has (RFC 5737, RFC 3849): the way to them is the way to everybody.
const ANYWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

impl Runtime {
    /// A member was reached there.
    pub fn reached(&self, member: MemberId, at: Endpoint) {
        let mut book = self.book();
        let news = book.hearsay(member, at);
        if news {
            book.keep();
        }
        drop(book);
        if news {
            self.engine().heard(member, clock::now());
            self.look();
        }
    }

    /// A member has told where others are.
    pub fn heard(&self, from: MemberId, address: IpAddr, heard: &Endpoints) {
        let Some(union) = self.newest.own() else { return };
        let mut book = self.book();
        let (mut own_word, mut news) = (false, Vec::new());
        for Place { member, endpoint } in heard.places.as_slice() {
            if *member == union.own.id() || !union.state.view.members.contains_key(member) {
                continue;
            }
            if *member == from {
                let seen = text(SocketAddr::new(address.to_canonical(), endpoint.port()));
                own_word |= book.own_word(from, endpoint.clone(), seen);
            } else if book.hearsay(*member, endpoint.clone()) {
                news.push(*member);
            }
        }
        if own_word || !news.is_empty() {
            book.keep();
        }
        let told = own_word.then(|| Endpoints::frame(book.best()));
        drop(book);
        if let Some(frame) = told {
            self.switch.send_all(&frame, from);
        }
        let mut engine = self.engine();
        news.into_iter().for_each(|member| engine.heard(member, clock::now()));
        drop(engine);
        self.look();
    }

    /// Our port, at this address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Endpoint> {
        let port = self.listens()?;
        text(SocketAddr::new(address.to_canonical(), port))
    }

    /// Where other members reach this one.
    ///
    /// # Errors
    /// This server has no way to others, and its administrator has not said.
    pub fn own_endpoint(&self) -> Result<Endpoint, Fault> {
        if let Some(endpoint) = &self.config.endpoint {
            return Ok(endpoint.clone());
        }
        let known = self.book().best();
        let known = known
            .iter()
            .filter_map(|p| Some(SocketAddr::new(p.endpoint.host().parse().ok()?, p.endpoint.port())));
        let anywhere = ANYWHERE.iter().filter_map(|a| a.parse().ok());
        let found = known.chain(anywhere).find_map(|to| self.at(towards(to)?));
        found.ok_or_else(|| {
            let why = if self.newest.own().is_none() {
                "it is in no union, so that nothing listens"
            } else {
                "it has no way to other servers, or cannot listen"
            };
            Fault::new(FaultKind::WrongState, "other members do not reach this server")
                .because(why)
                .hint("say in member.toml where they do: endpoint = \"name:port\"")
        })
    }
}

/// An address as an endpoint. None: one that another server cannot use as it stands.
fn text(address: SocketAddr) -> Option<Endpoint> {
    address.to_string().parse().ok()
}

/// Our address on the way to there. Nothing is sent.
fn towards(to: SocketAddr) -> Option<IpAddr> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
