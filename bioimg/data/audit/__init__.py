"""Look at a data set before it is used: classes, copies, groups, images that look alike."""
