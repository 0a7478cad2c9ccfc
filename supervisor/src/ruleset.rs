//! The member's packet rules as text for `nft -f`. Pure.
//!
//! One table holds all of them and is replaced as a whole, in one transaction: what is in force is always one whole
//! rule set. Addresses of boxes never appear outside, so a published port can later lead to another member.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use gtvp_model::boxspec::Protocol;
use gtvp_model::ids::Slot;
use gtvp_model::member::MemberConfig;

/// What the rules are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Name of the table, unique on this host.
    pub table: String,
    /// The member's end of the way to the boxes.
    pub box_link: String,
    /// The member's end of the way to the fetcher.
    pub source_link: String,
    /// The boxes' /24.
    pub box_network: Ipv4Addr,
    /// The /30 between member and boxes.
    pub transit: Ipv4Addr,
    /// The /30 between member and fetcher.
    pub source_transit: Ipv4Addr,
    /// Member port → box address and port.
    pub published: BTreeMap<(Protocol2, u16), (Ipv4Addr, u16)>,
}

/// [`Protocol`] with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol2 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl From<Protocol> for Protocol2 {
    fn from(p: Protocol) -> Self {
        match p {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl Rules {
    /// The text. Applying it twice is the same as once.
    pub fn text(&self) -> String {
        let Self {
            table, box_link: b, source_link: s, box_network: net, transit, source_transit: src, ..
        } = self;
        let tcp = self.map("tcp_ports", Protocol2::Tcp);
        let udp = self.map("udp_ports", Protocol2::Udp);
        let tcp6 = self.set("tcp6_ports", Protocol2::Tcp);
        let udp6 = self.set("udp6_ports", Protocol2::Udp);
        format!(
            r#"table inet {table}
delete table inet {table}
table inet {table} {{
{tcp}{udp}{tcp6}{udp6}
    chain spoofed {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{b}" ip daddr 127.0.0.0/8 drop
        iifname "{b}" ip saddr != {{ {net}/24, {transit}/30 }} drop
        iifname "{b}" meta nfproto ipv6 drop
        iifname {{ "{b}", "{s}" }} ip daddr 169.254.0.0/16 th dport != 53 drop
        iifname "{s}" ip daddr 127.0.0.0/8 drop
        iifname "{s}" ip saddr != {src}/30 drop
        iifname "{s}" meta nfproto ipv6 drop
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname != "{s}" fib daddr type local meta nfproto ipv4 dnat ip to tcp dport map @tcp_ports
        iifname != "{s}" fib daddr type local meta nfproto ipv4 dnat ip to udp dport map @udp_ports
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        fib daddr type local meta nfproto ipv4 dnat ip to tcp dport map @tcp_ports
        fib daddr type local meta nfproto ipv4 dnat ip to udp dport map @udp_ports
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {net}/24 masquerade
        ip saddr {src}/30 oifname != "{b}" masquerade
        ip saddr 127.0.0.0/8 oifname "{b}" masquerade
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {{ "{b}", "{s}" }} ct state established,related accept
        iifname {{ "{b}", "{s}" }} reject with icmpx type admin-prohibited
        meta nfproto ipv6 tcp dport @tcp6_ports reject with tcp reset
        meta nfproto ipv6 udp dport @udp6_ports reject
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{s}" oifname "{b}" drop
        oifname "{b}" ct state established,related accept
        oifname "{b}" ct status dnat accept
        oifname "{b}" drop
        oifname "{s}" ct state established,related accept
        oifname "{s}" drop
        iifname {{ "{b}", "{s}" }} accept
    }}
}}
"#
        )
    }

    fn of(&self, protocol: Protocol2) -> impl Iterator<Item = (u16, &(Ipv4Addr, u16))> {
        self.published.iter().filter(move |((p, _), _)| *p == protocol).map(|((_, port), to)| (*port, to))
    }

    fn map(&self, name: &str, protocol: Protocol2) -> String {
        let mut text = format!("    map {name} {{\n        type inet_service : ipv4_addr . inet_service\n");
        let elements: Vec<String> =
            self.of(protocol).map(|(port, (address, to))| format!("{port} : {address} . {to}")).collect();
        elements_line(&mut text, &elements);
        text
    }

    /// IPv6 is not led to boxes: its clients are refused at once and try IPv4.
    fn set(&self, name: &str, protocol: Protocol2) -> String {
        let mut text = format!("    set {name} {{\n        type inet_service\n");
        let elements: Vec<String> = self.of(protocol).map(|(port, _)| port.to_string()).collect();
        elements_line(&mut text, &elements);
        text
    }

    /// The text that removes everything. No error when there is nothing.
    pub fn removal(&self) -> String {
        format!("table inet {0}\ndelete table inet {0}\n", self.table)
    }
}

/// Rules of the boxes' bridge: from each box's interface come its own hardware address and its own IPv4 address, and nothing
/// else. So no box can be taken for another one or for the gateway. Every slot's are there before any box is.
pub fn box_ports(config: &MemberConfig) -> String {
    let boxes: Vec<String> = (0..=Slot::MAX)
        .filter_map(Slot::new)
        .map(|slot| {
            let (tap, mac) = (MemberConfig::box_tap(slot), config.box_mac(slot));
            format!("\"{tap}\" . {mac} . {}", config.box_address(slot))
        })
        .collect();
    format!(
        r#"table bridge gtvp
delete table bridge gtvp
table bridge gtvp {{
    set boxes {{
        typeof iifname . ether saddr . ip saddr
        elements = {{ {} }}
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy drop;
        iifname . ether saddr . ip saddr @boxes accept
        iifname . ether saddr . arp saddr ip @boxes iifname . arp saddr ether . arp saddr ip @boxes accept
    }}
}}
"#,
        boxes.join(", ")
    )
}

fn elements_line(text: &mut String, elements: &[String]) {
    if !elements.is_empty() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "        elements = {{ {} }}", elements.join(", "));
    }
    text.push_str("    }\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_stand_in_the_maps_of_their_protocol() {
        let to = Ipv4Addr::new(10, 77, 0, 2);
        let rules = Rules {
            table: "gtvp_m1".into(),
            box_link: "gvb0".into(),
            source_link: "gvs0".into(),
            box_network: Ipv4Addr::new(10, 77, 0, 0),
            transit: Ipv4Addr::new(10, 78, 0, 0),
            source_transit: Ipv4Addr::new(169, 254, 128, 0),
            published: BTreeMap::from([
                ((Protocol2::Tcp, 8080), (to, 80)),
                ((Protocol2::Tcp, 8443), (to, 443)),
                ((Protocol2::Udp, 5353), (to, 53)),
            ]),
        };
        let text = rules.text();
        assert!(text.contains("elements = { 8080 : 10.77.0.2 . 80, 8443 : 10.77.0.2 . 443 }"), "{text}");
        assert!(text.contains("elements = { 5353 : 10.77.0.2 . 53 }"), "{text}");
        assert!(text.contains("elements = { 8080, 8443 }"), "{text}");
    }
}
