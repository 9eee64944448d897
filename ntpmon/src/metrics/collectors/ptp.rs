//! PTP: who is master in each domain, what it announces, and how often messages come. Nothing where it
//! is not watched. Each interface has a bounded number of domains.

use anyhow::Result;
use ntpmon_common::PtpType;

use super::interfaces::MOST;
use crate::{
    metrics::{Samples, Sources, model::families},
    ntp::clock,
    ptp::{
        Domain, DomainKey, clock_text, port_text,
        view::{DelaysView, MasterView, Moment},
    },
};

/// What a clock announces that does not know its variance.
const UNKNOWN_VARIANCE: u16 = u16::MAX;

families! {
    MESSAGES: Counter "ntpmon_ptp_messages_total" ["interface", "domain", "sdo_id", "transport", "vlan", "type"]
        "Messages of a PTP domain that passed, by type, both directions. Since the daemon started, as the following counters";
    NTP: Counter "ntpmon_ptp_ntp_messages_total" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "Messages of a PTP domain that carry NTP";
    DELAYS: Counter "ntpmon_ptp_delay_requests_total" ["interface", "domain", "sdo_id", "transport", "vlan", "mechanism", "result"]
        "Requests for a delay, end_to_end (Delay_Req) or peer_to_peer (Pdelay_Req), by whether a response was seen within two seconds";
    TURNAROUND: Gauge "ntpmon_ptp_turnaround_mean_seconds" ["interface", "domain", "sdo_id", "transport", "vlan", "mechanism"]
        "From the passing of a request for a delay to that of its response, the mean since the daemon started";
    KNOWN: Gauge "ntpmon_ptp_masters" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "Masters of a PTP domain that are known, those that are gone among them";
    ANNOUNCING: Gauge "ntpmon_ptp_announcing_masters" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "Masters of a PTP domain that announce now: 0 is nobody, more than 1 is wrong unless they announce to single receivers";
    CHANGES: Counter "ntpmon_ptp_master_changes_total" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "How often another became master of a PTP domain, or nobody was any more; over restarts";
    MASTER: Info "ntpmon_ptp_master_info" ["interface", "domain", "sdo_id", "transport", "vlan", "master", "grandmaster"]
        "Who is master of a PTP domain, and the clock that it follows: always 1";
    CLASS: Gauge "ntpmon_ptp_grandmaster_clock_class" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "Clock class that the master of a PTP domain announces: 6 follows a reference, 7 did until lately, 248 never did";
    ACCURACY: Gauge "ntpmon_ptp_grandmaster_accuracy_seconds" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "Bound of the error that the master of a PTP domain announces of its grandmaster; missing where it announces none";
    VARIANCE: Gauge "ntpmon_ptp_grandmaster_scaled_log_variance" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "How steady its grandmaster runs, as the master of a PTP domain announces it: 256 times the binary logarithm of the variance in square seconds, plus 32768; missing where it announces none";
    PRIORITY1: Gauge "ntpmon_ptp_grandmaster_priority1" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "What counts before all else when a master is chosen, as the master of a PTP domain announces it of its grandmaster: the lowest wins, 0 to 255";
    PRIORITY2: Gauge "ntpmon_ptp_grandmaster_priority2" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "What counts between clocks that are equally good, as the master of a PTP domain announces it of its grandmaster: the lowest wins, 0 to 255";
    STEPS: Gauge "ntpmon_ptp_master_steps_removed" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "How many clocks the master of a PTP domain announces between itself and its grandmaster";
    UTC: Gauge "ntpmon_ptp_utc_offset_seconds" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "TAI - UTC as the master of a PTP domain announces it; missing where it does not say that it is right";
    CORRECTION: Gauge "ntpmon_ptp_sync_correction_mean_seconds" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "What Sync and Follow_Up of the master of a PTP domain say that the way added, the mean since the daemon started";
    DELAY_CORRECTION: Gauge "ntpmon_ptp_delay_correction_mean_seconds" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "What Delay_Resp of the master of a PTP domain say that the way of the request added, the mean since the daemon started";
    MISSING: Counter "ntpmon_ptp_missing_follow_ups_total" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "Syncs of the masters of a PTP domain whose Follow_Up never came";
    UNLISTED: Counter "ntpmon_ptp_unlisted_messages_total" ["interface", "domain", "sdo_id", "transport", "vlan"]
        "Messages of masters of a PTP domain for which there is no room: those are known by their number only";
    UNLISTED_DOMAINS: Counter "ntpmon_ptp_unlisted_domain_messages_total" ["interface"]
        "Messages of PTP domains for which there is no room on an interface";
    DUPLICATES: Counter "ntpmon_ptp_duplicate_messages_total" ["interface"]
        "PTP messages that passed a second time within a millisecond, and are counted once";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let Some(seen) = &sources.ptp else {
        return Ok(());
    };
    let now = clock::monotonic();
    for (interface, watcher) in seen.watchers().iter().take(MOST) {
        let since = Some(sources.started);
        let labels = [interface.as_ref()];
        samples.put_since(
            &UNLISTED_DOMAINS,
            &labels,
            watcher.unlisted_domains(),
            since,
        );
        samples.put_since(&DUPLICATES, &labels, watcher.duplicates(), since);
        for (key, domain) in watcher.domains() {
            tell(sources, samples, interface, key, domain, now);
        }
    }
    Ok(())
}

fn tell(
    sources: &Sources,
    samples: &mut Samples,
    interface: &str,
    key: &DomainKey,
    domain: &Domain,
    now: u64,
) {
    let since = Some(sources.started);
    let ids: Vec<String> = key.vlan_ids().iter().map(ToString::to_string).collect();
    let (number, sdo_id, vlan) = (
        key.number.to_string(),
        key.sdo_id.to_string(),
        ids.join("."),
    );
    let place = [
        interface,
        number.as_str(),
        sdo_id.as_str(),
        key.transport.name(),
        vlan.as_str(),
    ];
    let with = |more: &[&'static str]| [&place[..], more].concat();
    for kind in PtpType::ALL {
        let count = domain.messages[kind.index()].count;
        if count > 0 {
            samples.put_since(&MESSAGES, &with(&[kind.name()]), count, since);
        }
    }
    samples.put_since(&NTP, &place, domain.ntp_messages, since);
    for (mechanism, delays) in [
        ("end_to_end", DelaysView::new(domain.delays())),
        ("peer_to_peer", DelaysView::new(domain.peer_delays())),
    ] {
        let DelaysView {
            answered,
            unanswered,
            turnaround,
            ..
        } = delays;
        for (result, count) in [("answered", answered), ("unanswered", unanswered)] {
            samples.put_since(&DELAYS, &with(&[mechanism, result]), count, since);
        }
        samples.put_known(&TURNAROUND, &with(&[mechanism]), turnaround.mean_seconds);
    }
    samples.put(&KNOWN, &place, domain.masters.len());
    samples.put(&ANNOUNCING, &place, domain.announcing(now).count());
    samples.put(&CHANGES, &place, domain.master_changes);
    samples.put_since(&MISSING, &place, domain.missing_follow_ups, since);
    samples.put_since(&UNLISTED, &place, domain.unlisted, since);

    let Some(master) = domain.master.and_then(|it| domain.masters.get(&it)) else {
        return;
    };
    let view = MasterView::new(Some(interface), key, domain, master, Moment::Now(now));
    samples.put_known(&CORRECTION, &place, view.sync_correction.mean_seconds);
    let delay_correction = view.delay_correction.mean_seconds;
    samples.put_known(&DELAY_CORRECTION, &place, delay_correction);
    let Some((announce, view)) = master.announce.zip(view.announce) else {
        return;
    };
    let (name, grandmaster) = (
        port_text(master.identity),
        clock_text(announce.announced.grandmaster),
    );
    let labels = [&place[..], &[name.as_str(), grandmaster.as_str()]].concat();
    samples.put(&MASTER, &labels, true);
    samples.put(&CLASS, &place, u64::from(view.clock_class));
    samples.put_known(&ACCURACY, &place, view.clock_accuracy_seconds);
    let variance = Some(view.offset_scaled_log_variance).filter(|it| *it != UNKNOWN_VARIANCE);
    samples.put_known(&VARIANCE, &place, variance.map(u64::from));
    samples.put(&PRIORITY1, &place, view.priority1);
    samples.put(&PRIORITY2, &place, view.priority2);
    samples.put(&STEPS, &place, u64::from(view.steps_removed));
    samples.put_known(&UTC, &place, view.utc_offset_seconds.map(f64::from));
}
