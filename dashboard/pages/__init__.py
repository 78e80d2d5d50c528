"""The pages of the dashboard, one file each: from what is known of a run to components."""
