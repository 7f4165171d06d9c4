import com.pixelmed.dicom.*;
import com.pixelmed.network.*;
import java.io.File;
import java.util.Set;

/**
 * Retrieves a study with PixelMed: by C-GET into one folder, and by C-MOVE to a storage SCP of its own into another one.
 *
 * Arguments: port of the archive, AE title and port of the move destination, Study Instance UID, the two folders.
 */
public class RetrieveWithPixelMed {
    private static final ReceivedObjectHandler QUIET = new ReceivedObjectHandler() {
        public void sendReceivedObjectIndication(String file, String transferSyntax, String calling) {}
    };

    public static void main(String[] args) throws Exception {
        int archive = Integer.parseInt(args[0]);
        String title = args[1];
        AttributeList keys = keys(args[3]);

        new GetSOPClassSCU("127.0.0.1", archive, "PACS", title, SOPClass.StudyRootQueryRetrieveInformationModelGet, keys,
            new IdentifierHandler(), new File(args[4]), StoredFilePathStrategy.BYSOPINSTANCEUIDINSINGLEFOLDER, QUIET,
            Set.of(SOPClass.SecondaryCaptureImageStorage), true, true, false);

        StorageSOPClassSCPDispatcher storage = new StorageSOPClassSCPDispatcher(
            Integer.parseInt(args[2]), title, new File(args[5]), StoredFilePathStrategy.BYSOPINSTANCEUIDINSINGLEFOLDER, QUIET);
        new Thread(storage).start();
        while (!storage.isReady()) Thread.sleep(20);
        new MoveSOPClassSCU("127.0.0.1", archive, "PACS", title, title, SOPClass.StudyRootQueryRetrieveInformationModelMove, keys);
        storage.shutdown();
        System.exit(0);
    }

    private static AttributeList keys(String study) throws DicomException {
        AttributeList keys = new AttributeList();
        Attribute level = new CodeStringAttribute(TagFromName.QueryRetrieveLevel);
        level.addValue("STUDY");
        keys.put(level);
        Attribute uid = new UniqueIdentifierAttribute(TagFromName.StudyInstanceUID);
        uid.addValue(study);
        keys.put(uid);
        return keys;
    }
}
