//! Address translation of the four classic kinds, made of nftables.
//!
//! Connection tracking alone gives two: it keeps a source's port where it can and admits answers only from the very address and port that was
//! asked (*port restricted*), or it takes another port for each destination (*symmetric*). The other two let strangers in by a rule that sends
//! a port of the outside to the same port of the inside; that needs exactly one host inside, which is what labs have. What nobody inside has asked
//! for is dropped: answered, it would take the port away that the inside's own packet is about to get, as no translator does.

use super::Host;
use crate::Outcome;

/// What a router does with addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// One port outside for one inside; anybody may send to it.
    FullCone,
    /// The same; only addresses that were sent to may.
    Restricted,
    /// The same; only addresses and ports that were sent to may.
    PortRestricted,
    /// Another port outside for each destination.
    Symmetric,
}

/// The names of the rules' table.
const TABLE: &str = "lifeline";

impl Host {
    /// Translates everything that leaves by `outside`, with `inside` the one host behind it; what comes from a stranger's address, such as that of the
    /// host's other device, goes nowhere. Replaces what was there, mappings included.
    pub fn translate(&self, outside: &str, inside: &str, nat: Nat) -> Outcome {
        let masquerade = if nat == Nat::Symmetric { "masquerade fully-random" } else { "masquerade" };
        let (sent, inbound) = match nat {
            Nat::FullCone => ("", format!("iifname \"{outside}\" ip protocol udp dnat to {inside}")),
            Nat::Restricted => (
                "oifname \"{outside}\" ip protocol udp update @sent_to { ip daddr }",
                format!("iifname \"{outside}\" ip protocol udp ip saddr @sent_to dnat to {inside}"),
            ),
            Nat::PortRestricted | Nat::Symmetric => ("", String::new()),
        };
        let sent = sent.replace("{outside}", outside);
        self.nft(&format!(
            "table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n\
             set sent_to {{ type ipv4_addr; flags dynamic, timeout; timeout 2m; }}\n\
             chain sending {{ type filter hook forward priority 0; oifname \"{outside}\" ip saddr != {inside} drop\n {sent}\n }}\n\
             chain inbound {{ type nat hook prerouting priority -100; {inbound}\n }}\n\
             chain strangers {{ type filter hook input priority 0; iifname \"{outside}\" ct state new drop\n }}\n\
             chain outbound {{ type nat hook postrouting priority 100; oifname \"{outside}\" {masquerade}\n }}\n\
             }}\n"
        ))
    }

    /// Sends what comes to a TCP port of `outside` to the same port of a host inside.
    pub fn let_in(&self, outside: &str, port: u16, inside: &str) -> Outcome {
        self.nft(&format!(
            "table ip open {{\nchain inbound {{ type nat hook prerouting priority -110; \
             iifname \"{outside}\" tcp dport {port} dnat to {inside}\n }}\n }}\n"
        ))
    }

    /// Forgets every mapping, as a translator does that was restarted or whose timers ran out: what comes from outside afterwards finds nobody,
    /// and what leaves gets a new port.
    pub fn forget_mappings(&self) -> Outcome {
        let output = self.output(std::process::Command::new("conntrack").arg("-F"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("conntrack -F on {}: {}", self.name(), String::from_utf8_lossy(&output.stderr)).into())
    }
}
