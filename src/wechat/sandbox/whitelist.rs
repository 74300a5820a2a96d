//! Entries of an IP whitelist, in the forms that WeChat's console takes.

use std::net::IpAddr;

/// One entry: an address, a CIDR range, or `a.b.c.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressRange {
    network: IpAddr,
    prefix: u32,
}

impl AddressRange {
    /// Reads an entry; `None` when it has none of the three forms.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(start) = text.strip_suffix(".*") {
            let network = format!("{start}.0").parse().ok().filter(IpAddr::is_ipv4)?;
            return Some(Self { network, prefix: 24 });
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let network: IpAddr = address.parse().ok()?;
        let longest = if network.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(longest), |digits| digits.parse().ok())?;
        (prefix <= longest).then_some(Self { network, prefix })
    }

    /// Whether `ip` lies in it.
    pub(super) fn contains(self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let shift = 32 - self.prefix;
                u32::from(network).checked_shr(shift) == u32::from(ip).checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let shift = 128 - self.prefix;
                u128::from(network).checked_shr(shift) == u128::from(ip).checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// Whether `ip` may call under `entries`. No entries: the whitelist is off.
pub(super) fn admits(entries: &[String], ip: IpAddr) -> bool {
    entries.is_empty()
        || entries.iter().filter_map(|entry| AddressRange::parse(entry)).any(|range| range.contains(ip.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_entry_admits_what_it_names() {
        for (entry, inside, outside) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.*", "10.1.2.255", "10.1.3.0"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("10.1.2.3", "::ffff:10.1.2.3", "::1"),
        ] {
            let entries = [entry.to_owned()];
            assert!(admits(&entries, inside.parse().unwrap()), "{entry} {inside}");
            assert!(!admits(&entries, outside.parse().unwrap()), "{entry} {outside}");
        }
        assert!(admits(&["0.0.0.0/0".to_owned()], "9.9.9.9".parse().unwrap()));
        assert!(admits(&[], "9.9.9.9".parse().unwrap()));
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in ["", "10.1.2.3:80", "10.1.2.3/33", "10.1.*", "10.1.2.3/x", "::/129", "::1.*", "host"] {
            assert_eq!(AddressRange::parse(bad), None, "{bad}");
        }
    }
}
