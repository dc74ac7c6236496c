"""Pictures of the dashboards without a Grafana server: Grafana's own components in a headless browser.

`@grafana/ui` requires a fork of react-data-grid by the address of its repository. package.json takes the release it was
forked from instead: nothing that is drawn here uses it, and npm needs no other host than its registry.
"""
