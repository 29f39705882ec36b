//! Candidates of ours: interfaces, and what STUN servers see. Pure save for the lists of interfaces and default routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use is::stun::{StunMessageBuilder, TransId};

/// Addresses of interfaces that become candidates; hosts with bridges and containers have dozens that lead nowhere.
const MAX_HOSTS: usize = 8;
/// When an unanswered question to a STUN server is repeated, from its start (RFC 8489 section 6.2.1, from 100 ms).
const REPEATS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(700), Duration::from_millis(1500)];
/// When it is given up.
const GIVE_UP: Duration = Duration::from_secs(3);

/// Addresses of this computer that a peer may reach, the likeliest first: see [`rank`].
pub(crate) fn hosts(loopback: bool, reaches: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut found: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    found.retain(|ip| reaches(*ip) && (loopback || !ip.is_loopback()) && usable(*ip));
    rank(found, &routed())
}

/// The addresses that this computer sends from where no network of its own leads: those of its default routes. Sends nothing.
fn routed() -> Vec<IpAddr> {
    // Any address that no interface has: these are set aside for documentation (RFC 5737, RFC 3849).
    let from = |own: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((own, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let v6 = from(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    let v4 = from(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    v6.into_iter().chain(v4).collect()
}

/// Those of default routes, then the other networks', then loopback; IPv6 before IPv4 (RFC 8421 section 4). A peer that is not beside us in a container's
/// network reaches the first, and existing callers wait 200 ms for a pair that ranks above one that works.
fn rank(mut found: Vec<IpAddr>, routed: &[IpAddr]) -> Vec<IpAddr> {
    found.sort_by_key(|ip| (ip.is_loopback(), !routed.contains(ip), ip.is_ipv4(), *ip));
    found.dedup();
    if found.len() > MAX_HOSTS {
        // Loopback stands last and is worth more than the ninth bridge.
        let last = found.pop();
        found.truncate(MAX_HOSTS - 1);
        found.extend(last);
    }
    found
}

fn usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

/// A question to a STUN server: where do you see me?
#[derive(Debug)]
pub(crate) struct Question {
    pub server: SocketAddr,
    id: TransId,
    started: Option<Instant>,
    sent: usize,
    done: bool,
}

impl Question {
    pub fn new(server: SocketAddr) -> Self {
        Self { server, id: TransId::new(), started: None, sent: 0, done: false }
    }

    /// Whether it was answered or given up.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// When [`Question::poll`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.done {
            return None;
        }
        let started = self.started?;
        Some(started + REPEATS.get(self.sent.saturating_sub(1)).copied().unwrap_or(GIVE_UP))
    }

    /// The datagram to send now, if it is time.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.started.is_none() || self.poll_timeout().is_some_and(|at| at <= now);
        if self.done || !due {
            return None;
        }
        let started = *self.started.get_or_insert(now);
        if now >= started + GIVE_UP {
            self.done = true;
            return None;
        }
        self.sent += 1;
        let mut datagram = vec![0; 64];
        let request = StunMessageBuilder::new().binding().request().build(self.id);
        let length = request.to_bytes(None, &mut datagram, |_, _| [0; 20]).ok()?;
        datagram.truncate(length);
        Some(datagram)
    }

    /// Whether `datagram` is the answer; then the address that the server saw.
    pub fn handle(&mut self, remote: SocketAddr, datagram: &[u8]) -> Option<Option<SocketAddr>> {
        if self.done || remote != self.server {
            return None;
        }
        let (class, mapped) = mapped_address(datagram, &self.id)?;
        self.done = true;
        Some(mapped.filter(|_| class == Class::Success))
    }
}

#[derive(PartialEq, Eq)]
enum Class {
    Success,
    Failure,
}

/// Reads an answer to the binding request `id` without credentials, which the library's parser does not.
fn mapped_address(datagram: &[u8], id: &TransId) -> Option<(Class, Option<SocketAddr>)> {
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
    let class = match datagram.first_chunk()? {
        [1, 1] => Class::Success,
        [1, 0x11] => Class::Failure,
        _ => return None,
    };
    // The library shows an id only in what it writes.
    let mut own = [0; 64];
    StunMessageBuilder::new().binding().request().build(*id).to_bytes(None, &mut own, |_, _| [0; 20]).ok()?;
    if datagram.get(4..20)? != &own[4..20] {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]));
    let mut rest = datagram.get(20..20 + length)?;
    let mut plain = None;
    while let [k0, k1, l0, l1, value @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let kind = u16::from_be_bytes([*k0, *k1]);
        let value_here = value.get(..length)?;
        // XOR-MAPPED-ADDRESS, and MAPPED-ADDRESS of servers from before it.
        match kind {
            0x0020 => {
                let mut mask = [0; 16];
                mask[..4].copy_from_slice(&COOKIE);
                mask[4..].copy_from_slice(&own[8..20]);
                return Some((class, address(value_here, &mask)));
            }
            0x0001 => plain = address(value_here, &[0; 16]),
            _ => {}
        }
        rest = value.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((class, plain))
}

fn address(value: &[u8], mask: &[u8; 16]) -> Option<SocketAddr> {
    let [_, family, p0, p1, ip @ ..] = value else { return None };
    let port = u16::from_be_bytes([p0 ^ mask[0], p1 ^ mask[1]]);
    let unmask = |i: usize, byte: u8| byte ^ mask[i];
    let ip = match (family, ip.len()) {
        (1, 4) => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?.iter().enumerate().fold([0; 4], |mut to, (i, b)| {
            to[i] = unmask(i, *b);
            to
        })),
        (2, 16) => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?.iter().enumerate().fold([0; 16], |mut to, (i, b)| {
            to[i] = unmask(i, *b);
            to
        })),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(request: &[u8], mapped: [u8; 4], port: u16) -> Vec<u8> {
        let mut answer = vec![1, 1, 0, 12, 0x21, 0x12, 0xA4, 0x42];
        answer.extend_from_slice(&request[8..20]);
        answer.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
        answer.extend_from_slice(&(port ^ 0x2112).to_be_bytes());
        answer.extend(mapped.iter().zip([0x21, 0x12, 0xA4, 0x42]).map(|(a, b)| a ^ b));
        answer
    }

    #[test]
    fn a_question_is_repeated_answered_once_and_given_up() {
        let (now, server) = (Instant::now(), "192.0.2.1:3478".parse().expect("address"));
        let mut question = Question::new(server);
        let request = question.poll(now).expect("at once");
        assert!(question.poll(now).is_none());
        assert_eq!(question.poll(now + REPEATS[0]).as_ref(), Some(&request), "the same question");
        let answer = answer_to(&request, [203, 0, 113, 9], 40000);
        assert_eq!(question.handle("192.0.2.2:3478".parse().expect("address"), &answer), None);
        let mut forged = answer.clone();
        forged[9] ^= 1;
        assert_eq!(question.handle(server, &forged), None);
        assert_eq!(question.handle(server, &answer), Some(Some("203.0.113.9:40000".parse().expect("address"))));
        assert!(question.is_done() && question.handle(server, &answer).is_none());

        let mut unanswered = Question::new(server);
        let mut sent = usize::from(unanswered.poll(now).is_some());
        while let Some(at) = unanswered.poll_timeout() {
            sent += usize::from(unanswered.poll(at).is_some());
        }
        assert_eq!(sent, 1 + REPEATS.len());
    }

    /// RFC 8489 section 14.2: an IPv6 address is hidden by the cookie and the question's number.
    #[test]
    fn a_server_that_is_asked_over_ipv6_tells_an_ipv6_address() {
        let (now, server) = (Instant::now(), "[2001:db8::1]:3478".parse().expect("address"));
        let mapped: Ipv6Addr = "2001:db8:1234:5678:11:2233:4455:6677".parse().expect("address");
        for hidden in [true, false] {
            let mut question = Question::new(server);
            let request = question.poll(now).expect("at once");
            let mask = if hidden { request[4..20].to_vec() } else { vec![0; 16] };
            let port = u16::from_be_bytes([(40_000_u16 >> 8) as u8 ^ mask[0], 40_000_u16 as u8 ^ mask[1]]);
            let ip = mapped.octets().iter().zip(&mask).map(|(a, b)| a ^ b).collect::<Vec<_>>();
            let head = [&[1, 1, 0, 24], &request[4..20], &[0, if hidden { 0x20 } else { 1 }, 0, 20, 0, 2]].concat();
            let answer = [head, port.to_be_bytes().to_vec(), ip].concat();
            assert_eq!(question.handle(server, &answer), Some(Some(SocketAddr::new(mapped.into(), 40_000))));
        }
    }

    #[test]
    fn the_default_route_ranks_before_bridges_and_ipv6_before_ipv4() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("address") };
        for (found, routed, ranked) in [
            (
                vec!["127.0.0.1", "172.17.0.1", "192.168.1.7"],
                vec!["192.168.1.7"],
                vec!["192.168.1.7", "172.17.0.1", "127.0.0.1"],
            ),
            (vec!["192.168.1.7", "172.17.0.1"], vec![], vec!["172.17.0.1", "192.168.1.7"]),
            (
                vec!["10.0.0.1", "fd00::1", "192.168.1.7", "2001:db8:5::7", "::1", "127.0.0.1"],
                vec!["192.168.1.7", "2001:db8:5::7"],
                vec!["2001:db8:5::7", "192.168.1.7", "fd00::1", "10.0.0.1", "::1", "127.0.0.1"],
            ),
            // A default route's address that is no interface's to a peer, and one that is there twice.
            (vec!["10.0.0.1", "10.0.0.1"], vec!["169.254.1.1"], vec!["10.0.0.1"]),
        ] {
            let list = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect::<Vec<_>>();
            assert_eq!(rank(list(&found), &list(&routed)), list(&ranked));
        }
        let bridges: Vec<IpAddr> =
            (0..20).map(|n| IpAddr::from([10, 0, n, 1])).chain([ip("127.0.0.1"), ip("192.168.1.7")]).collect();
        let few = rank(bridges, &[ip("192.168.1.7")]);
        assert_eq!((few.len(), few[0], few[MAX_HOSTS - 1]), (MAX_HOSTS, ip("192.168.1.7"), ip("127.0.0.1")));
    }

    #[test]
    fn this_computer_has_addresses_and_loopback_is_last() {
        let hosts = hosts(true, |ip| ip.is_ipv4());
        assert!(hosts.last().is_some_and(IpAddr::is_loopback), "{hosts:?}");
        assert!(super::hosts(false, |_| true).iter().all(|ip| !ip.is_loopback()));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(5_000))]

        /// Attributes of any kind and length behind the head of an answer, which may say any length itself.
        #[test]
        fn whatever_a_stun_server_answers_does_no_harm(
            length in proptest::prelude::any::<u16>(),
            honest in proptest::prelude::any::<bool>(),
            attributes in proptest::collection::vec(
                (proptest::sample::select(vec![0x20_u16, 1, 9]), 0_u16..24, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..24)), 0..4),
        ) {
            let (now, server) = (Instant::now(), "192.0.2.1:3478".parse().expect("address"));
            let mut question = Question::new(server);
            let request = question.poll(now).expect("at once");
            let body: Vec<u8> = attributes.iter().flat_map(|(kind, length, value)| {
                [kind.to_be_bytes().as_slice(), &length.to_be_bytes(), value].concat()
            }).collect();
            let length = if honest { body.len() as u16 } else { length };
            let mut answer = [&[1, 1], length.to_be_bytes().as_slice(), &request[4..20]].concat();
            answer.extend_from_slice(&body);
            if question.handle(server, &answer).is_some() {
                proptest::prop_assert!(question.is_done());
            }
        }
    }
}
