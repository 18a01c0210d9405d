"""What tests share: clocks, gateways, scripted upstreams, wires, SDKs, servers and stores."""
