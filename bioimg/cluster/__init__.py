"""The same experiment on Ray, on one machine or many. Only this folder imports Ray."""
