"""Data: frames read into panels, windows over them, calendars, seasons."""
