"""The only place that speaks MCP on the wire. It knows engines by their protocol alone."""
