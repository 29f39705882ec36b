//! Which of two links is better. Pure; the order of the fields is the policy (routes.md 3).

use std::time::Duration;

use super::types::{LinkFacts, LinkId, Tier};

/// How a link ranks as primary: smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrimaryRank {
    /// A link that answers comes before one that does not.
    pub unanswering: bool,
    /// Then the tier decides,
    pub tier: Tier,
    /// then the round trip,
    pub rtt: Duration,
    /// then age, so that the order is total.
    pub link: LinkId,
}

/// How a link ranks as standby of a given primary: smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StandbyRank {
    /// A link that the session's beat has proven comes before one that it has not;
    pub unproven: bool,
    /// a link that answers comes before one that does not.
    pub unanswering: bool,
    /// Another interface or path survives what kills the primary;
    pub same_path: bool,
    /// else another kind does sometimes.
    pub same_kind: bool,
    /// Then as for the primary.
    pub tier: Tier,
    /// Round trip.
    pub rtt: Duration,
    /// Age.
    pub link: LinkId,
}

/// Ranks a link as primary.
pub fn as_primary(link: LinkId, facts: &LinkFacts, rtt: Duration, unanswering: bool) -> PrimaryRank {
    PrimaryRank { unanswering, tier: facts.tier, rtt, link }
}

/// Ranks a link as the standby of `primary`.
pub fn as_standby(
    primary: &LinkFacts,
    link: LinkId,
    facts: &LinkFacts,
    rtt: Duration,
    unproven: bool,
    unanswering: bool,
) -> StandbyRank {
    StandbyRank {
        unproven,
        unanswering,
        same_path: facts.path == primary.path,
        same_kind: facts.tier.is_webrtc() == primary.tier.is_webrtc(),
        tier: facts.tier,
        rtt,
        link,
    }
}

/// Hysteresis within a tier: a link overtakes when its round trip is less than half and at least 5 ms shorter. Both
/// must hold for [`OVERTAKING`] before it is promoted.
pub fn overtakes(challenger: Duration, primary: Duration) -> bool {
    challenger * 2 < primary && challenger + Duration::from_millis(5) <= primary
}

/// How long a link of the same tier must have been that much better.
pub const OVERTAKING: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn facts(tier: Tier, path: u8) -> LinkFacts {
        LinkFacts { tier, path: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, path))), rtt: MS }
    }

    #[test]
    fn tiers_are_in_the_order_of_the_rules() {
        use Tier::*;
        let order = [LanDirect, LanWebRtc, WanDirect, WebRtcDirect, WebRtcRelayed];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn primary_table() {
        use Tier::*;
        // Best first: (unanswering, tier, rtt in ms, id).
        let rows = [
            (false, LanDirect, 1, 9),
            (false, LanDirect, 40, 1),
            (false, LanDirect, 40, 2),
            (false, LanWebRtc, 1, 1),
            (false, WanDirect, 1, 1),
            (false, WebRtcDirect, 1, 1),
            (false, WebRtcRelayed, 1, 1),
            (true, LanDirect, 1, 1),
        ];
        let ranks: Vec<_> = rows
            .iter()
            .map(|&(unanswering, tier, ms, id)| as_primary(LinkId(id), &facts(tier, 1), MS * ms, unanswering))
            .collect();
        assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]), "{ranks:?}");
    }

    #[test]
    fn standby_table() {
        use Tier::*;
        let primary = facts(LanDirect, 1);
        // Best first: (unproven, unanswering, tier, path, rtt in ms).
        let rows = [
            (false, false, LanWebRtc, 2, 9),     // another path and another kind
            (false, false, WebRtcRelayed, 2, 1), // the same, worse tier
            (false, false, LanDirect, 2, 1),     // another path
            (false, false, WanDirect, 2, 1),     // another path, worse tier
            (false, false, LanWebRtc, 1, 1),     // the same path, another kind
            (false, false, LanDirect, 1, 1),     // the same path and kind
            (false, true, LanWebRtc, 2, 1),      // does not answer at the moment
            (true, false, LanWebRtc, 2, 1),      // may be another process
        ];
        let ranks: Vec<_> = rows
            .iter()
            .map(|&(unproven, unanswering, tier, path, ms)| {
                as_standby(&primary, LinkId(5), &facts(tier, path), MS * ms, unproven, unanswering)
            })
            .collect();
        assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]), "{ranks:?}");
    }

    #[test]
    fn hysteresis_table() {
        for (challenger, primary, expected) in [
            (10, 30, true),
            (10, 20, false), // not less than half
            (10, 21, true),
            (1, 5, false), // less than 5 ms gained
            (1, 6, true),
            (30, 10, false),
            (10, 10, false),
        ] {
            assert_eq!(overtakes(MS * challenger, MS * primary), expected, "{challenger} against {primary} ms");
        }
    }
}
