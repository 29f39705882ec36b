//! Where published servers are machines of our client's.

use crate::Outcome;
use crate::e2e::Stage;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Host, Lab};

/// A client and a server on one cable with a round trip of 2 ms.
pub struct OneCable {
    _lab: Lab,
    /// 10.1.0.2
    pub client: Host,
    /// 10.1.0.1
    pub server: Host,
}

impl OneCable {
    /// Lays it.
    pub fn new(stage: &Stage) -> Result<Self, Box<dyn std::error::Error>> {
        let lab = stage.lab()?;
        let (client, server) = (lab.host("client")?, lab.host("machine")?);
        lab.cable("one", (&client, "eth0"), (&server, "eth0"))?;
        client.address("eth0", "10.1.0.2/24")?;
        server.address("eth0", "10.1.0.1/24")?;
        lab.set("one", BOTH, Policy::delayed(1))?;
        Ok(Self { _lab: lab, client, server })
    }

    /// Nothing of TCP passes any more, or again. At both ends of the cable, before either system sees the packet.
    pub fn cut_tcp(&self, cut: bool) -> Outcome {
        for host in [&self.client, &self.server] {
            host.nft(if cut {
                "table netdev cut {\nchain in { type filter hook ingress device \"eth0\" priority 0; meta l4proto tcp drop; }\n}\n"
            } else {
                "delete table netdev cut\n"
            })?;
        }
        Ok(())
    }
}
