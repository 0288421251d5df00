"""The data-collection site: study file, server, pages, export."""
