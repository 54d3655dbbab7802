"""The usage page: what a tenant has used, for people with a browser. It shows and changes nothing."""
