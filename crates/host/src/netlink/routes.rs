//! Routes of the main table, of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{EEXIST, ESRCH, Netlink, NetlinkError, done, refused};
use crate::nft::Prefix;

/// RT_TABLE_MAIN
const MAIN_TABLE: u8 = 254;

/// A route in the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Prefix,
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// The link to leave by.
    pub link: Option<u32>,
    /// The source address for packets of this host.
    pub source: Option<IpAddr>,
    /// The gateway is reachable by the link even if no address says so.
    pub onlink: bool,
    /// Packets are refused instead of sent.
    pub unreachable: bool,
    /// What made it: a number of `rt_protos`, by which own routes are found again.
    pub protocol: u8,
    /// Its order among routes to the same destination, lowest first.
    pub metric: u32,
}

impl Route {
    /// A plain route of a protocol number.
    pub fn to(destination: Prefix, protocol: u8) -> Self {
        Self {
            destination,
            gateway: None,
            link: None,
            source: None,
            onlink: false,
            unreachable: false,
            protocol,
            metric: 0,
        }
    }
}

impl Netlink {
    /// Sets the route, whatever route of the same destination and metric there was.
    pub async fn set_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = message_of(route);
        let request = self.handle.route().add(message).replace();
        done(
            &format!("set route to {}", route.destination),
            request.execute().await,
            &[EEXIST],
        )
    }

    /// Deletes the route.
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = message_of(route);
        let result = self.handle.route().del(message).execute().await;
        done(
            &format!("delete route to {}", route.destination),
            result,
            &[ESRCH],
        )
    }

    /// The routes of the main table, of both families. Where the kernel has no IPv6, it shows none
    /// of that.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let four = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes = Vec::new();
        for filter in [four, six] {
            let family = filter.header.address_family;
            let stream = self.handle.route().get(filter).execute();
            let all: Vec<_> = stream
                .try_collect()
                .await
                .map_err(|e| refused("list routes", e))?;
            // A kernel without the family answers with all of the other ones.
            let ours = all.iter().filter(|m| m.header.address_family == family);
            let main = ours.filter(|m| m.header.table == MAIN_TABLE);
            routes.extend(main.map(route_of));
        }
        Ok(routes)
    }
}

fn message_of(route: &Route) -> RouteMessage {
    let length = route.destination.length;
    match route.destination.address {
        IpAddr::V4(destination) => {
            let mut builder = common(route, RouteMessageBuilder::<Ipv4Addr>::new())
                .destination_prefix(destination, length);
            if let Some(IpAddr::V4(gateway)) = route.gateway {
                builder = builder.gateway(gateway);
            } else if !route.unreachable {
                // IPv6 has no such scopes.
                builder = builder.scope(RouteScope::Link);
            }
            if let Some(IpAddr::V4(source)) = route.source {
                builder = builder.pref_source(source);
            }
            builder.build()
        }
        IpAddr::V6(destination) => {
            let mut builder = common(route, RouteMessageBuilder::<Ipv6Addr>::new())
                .destination_prefix(destination, length);
            if let Some(IpAddr::V6(gateway)) = route.gateway {
                builder = builder.gateway(gateway);
            }
            if let Some(IpAddr::V6(source)) = route.source {
                builder = builder.pref_source(source);
            }
            builder.build()
        }
    }
}

/// What routes of both families say alike.
fn common<T>(route: &Route, builder: RouteMessageBuilder<T>) -> RouteMessageBuilder<T> {
    let mut builder = builder.protocol(RouteProtocol::from(route.protocol));
    if let Some(index) = route.link {
        builder = builder.output_interface(index);
    }
    if route.onlink {
        builder = builder.onlink();
    }
    if route.unreachable {
        builder = builder.kind(RouteType::Unreachable);
    }
    if route.metric > 0 {
        builder = builder.priority(route.metric);
    }
    builder
}

fn route_of(message: &RouteMessage) -> Route {
    let everywhere = match message.header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let length = message.header.destination_prefix_length;
    let mut route = Route::to(
        Prefix {
            address: everywhere,
            length,
        },
        message.header.protocol.into(),
    );
    route.unreachable = message.header.kind == RouteType::Unreachable;
    route.onlink = message.header.flags.contains(RouteFlags::Onlink);
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(four) => Some(IpAddr::V4(*four)),
        RouteAddress::Inet6(six) => Some(IpAddr::V6(*six)),
        _ => None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination.address = ip(address).unwrap_or(everywhere);
            }
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(index) => route.link = Some(*index),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    route
}
