"""Other servers' metrics on our page: fetched, checked, regrouped, with the label `upstream`."""
